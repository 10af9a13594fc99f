//! The header of a qcow2 file (QEMU's docs/interop/qcow2.txt, "Header"), checked before the library sees the file.
//!
//! In an image that passes these checks, the tables are inside of the file, do not overlap and have a limited size, and the
//! library knows every feature.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::config::Format;
use crate::plain_text::shell_word;
use crate::virtio::block::image::opening::QCOW2_MAGIC;

const VERSION_2_LENGTH: u64 = 72;
const VERSION_3_LENGTH: u64 = 104;
/// The largest clusters have 2 MiB, as in QEMU.
const MAX_CLUSTER_BITS: u32 = 21;
/// The largest L1 table has 32 MiB, as in QEMU.
const MAX_L1_ENTRIES: u32 = 4 << 20;
/// The same limit as in QEMU.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// How many bytes the tables of snapshots and bitmaps may have. They are read once, when the image is opened for writing.
pub const OTHER_TABLES: u64 = 16 << 20;
/// Far above the three that QEMU writes at most.
const MAX_EXTENSIONS: usize = 64;
const MAX_BACKING_NAME: u32 = 1023;
/// Far above what a path of Linux can have.
const MAX_DATA_FILE_NAME: usize = 65536;

const END_OF_EXTENSIONS: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const DATA_FILE_NAME: u32 = 0x4441_5441;
const BITMAPS_LENGTH: usize = 24;
const FEATURE_NAME_LENGTH: usize = 48;
const INCOMPATIBLE: u8 = 0;

/// The numbers of the incompatible feature bits.
const DIRTY: u32 = 0;
const CORRUPT: u32 = 1;
const EXTERNAL_DATA_FILE: u32 = 2;
const COMPRESSION_TYPE: u32 = 3;
const EXTENDED_L2: u32 = 4;

/// Where the autoclear features are in the header. A program that writes an image clears the bits that it does not know.
pub const AUTOCLEAR: Range<usize> = 88..96;
/// The autoclear feature bit that says: the data file alone is a raw image of the disk.
pub const RAW_DATA_FILE: u64 = 1 << 1;

/// Why a file cannot be used as a qcow2 image, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("its header cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is no qcow2 file (a raw image takes 'format=raw')")]
    Magic,
    #[error(
        "it is qcow2 version {0}, and only 2 and 3 are known (convert it: qemu-img convert -O qcow2 IMAGE NEW)"
    )]
    Version(u32),
    #[error(
        "it is marked as in use or not closed cleanly, so its reference counts may be wrong (close whatever uses it, \
         then repair it: qemu-img check -r all IMAGE)"
    )]
    Dirty,
    #[error("it is marked as corrupt (repair it: qemu-img check -r all IMAGE)")]
    Corrupt,
    #[error(
        "its data is in another file, which is possible only for the image that a disk names (put all into one: \
         qemu-img convert -O qcow2 IMAGE NEW)"
    )]
    DataFileBelow,
    #[error(
        "it is compressed with something else than zlib (convert it: qemu-img convert -O qcow2 IMAGE NEW)"
    )]
    CompressionType,
    #[error("it has subclusters (convert it: qemu-img convert -O qcow2 IMAGE NEW)")]
    ExtendedL2,
    #[error("it needs a feature that is not known: {0} (convert it: qemu-img convert -O qcow2 IMAGE NEW)")]
    UnknownFeature(FeatureName),
    #[error("it is encrypted (decrypt it: qemu-img convert -O qcow2 IMAGE NEW)")]
    Encrypted,
    #[error("its virtual size is 0 (give it one: qemu-img resize IMAGE SIZE)")]
    Empty,
    #[error(
        "its virtual size of {0} bytes is no multiple of the sector size 512 (round it up: qemu-img resize IMAGE SIZE)"
    )]
    PartialSector(u64),
    #[error(
        "its virtual size of {size} bytes is more than its L1 table of {entries} entries maps (is the file damaged? \
         look: qemu-img check IMAGE)"
    )]
    Size { size: u64, entries: u32 },
    #[error("its header is damaged: {0} (is it a whole qcow2 file? look: qemu-img check IMAGE)")]
    Damaged(&'static str),
    #[error("its {table} is damaged: {what} (repair it: qemu-img check -r all IMAGE)")]
    Table { table: &'static str, what: &'static str },
    #[error(
        "its snapshots and bitmaps have more than {} MiB of tables (delete some: qemu-img snapshot -d NAME IMAGE, \
         qemu-img bitmap --remove IMAGE NAME)",
        OTHER_TABLES >> 20
    )]
    OtherTables,
    #[error("its backing file's name is no UTF-8 text (rename that file, then: qemu-img rebase -u)")]
    BackingName,
    #[error(
        "its backing file {name:?} has no stated format, and a guess could be wrong (state it: qemu-img rebase -u -b \
         {} -F raw, or -F qcow2)",
        shell_word(Path::new(.name))
    )]
    NoBackingFormat { name: String },
    #[error(
        "its backing file {name:?} has format {format:?}, and only raw and qcow2 are known (convert that file, then: \
         qemu-img rebase -u -b FILE -F qcow2)"
    )]
    BackingFormat { name: String, format: String },
    #[error(
        "its backing file {name:?} is no file of this host (copy it here, then: qemu-img rebase -u -b FILE -F FORMAT)"
    )]
    BackingProtocol { name: String },
}

/// A feature bit, with the name that the file itself has for it.
#[derive(Debug)]
pub struct FeatureName {
    bit: u32,
    name: Option<String>,
}

impl fmt::Display for FeatureName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(formatter, "{name:?} (bit {})", self.bit),
            None => write!(formatter, "bit {}", self.bit),
        }
    }
}

/// The backing file that the header names.
#[derive(Debug, PartialEq, Eq)]
pub struct Backing {
    pub name: String,
    pub format: Format,
}

/// What the header says about the file that has the data of the disk, if that is not the image itself.
#[derive(Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Any text that the image has for it, or none. Only a person is told it.
    pub name: Option<String>,
    /// Whether it is also a raw image of the disk, which programs read that do not know the tables.
    pub is_raw: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    /// A reference count has 1 << refcount_order bits.
    pub refcount_order: u32,
    /// The size of the disk in bytes.
    pub size: u64,
    pub tables: Tables,
    pub snapshots: Records,
    pub bitmaps: Records,
    pub backing: Option<Backing>,
    pub data_file: Option<DataFile>,
}

/// Where the list of snapshots or of bitmaps is. Its records have different lengths. Nothing of this is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    pub count: u32,
    /// Its offset in the file, in bytes.
    pub start: u64,
}

/// The places of the two tables of pointers, as offsets in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    pub l1: Range<u64>,
    /// A whole number of clusters.
    pub refcounts: Range<u64>,
}

impl Tables {
    /// The places that the fixed fields at the header's start give. They are not checked.
    pub fn of(start: &[u8], cluster_bits: u32) -> Option<Self> {
        let l1_start = be64(start, 40)?;
        let refcounts_start = be64(start, 48)?;
        let refcounts_length = u64::from(be32(start, 56)?).checked_shl(cluster_bits)?;
        Some(Self {
            l1: l1_start..l1_start.checked_add(u64::from(be32(start, 36)?) * 8)?,
            refcounts: refcounts_start..refcounts_start.checked_add(refcounts_length)?,
        })
    }
}

impl Header {
    /// Reads and checks the header of a file that has `length` bytes.
    pub fn read(file: &File, length: u64) -> Result<Self, HeaderError> {
        let mut start = vec![0; length.min(VERSION_3_LENGTH) as usize];
        file.read_exact_at(&mut start, 0)?;
        if start.get(..4) != Some(&QCOW2_MAGIC) {
            return Err(HeaderError::Magic);
        }
        let cut_short = HeaderError::Damaged("it is cut short");
        let field = |offset| be32(&start, offset).ok_or(HeaderError::Damaged("it is cut short"));
        let version = field(4)?;
        if !(2..=3).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let cluster_bits = field(20)?;
        if !(9..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(HeaderError::Damaged("its clusters are not of 512 bytes to 2 MiB"));
        }
        let first_cluster = length.min(1 << cluster_bits);
        let (header_length, refcount_order) = match version {
            2 => (VERSION_2_LENGTH, 4),
            _ => (u64::from(field(100)?), field(96)?),
        };
        let least = if version == 2 {
            VERSION_2_LENGTH
        } else {
            VERSION_3_LENGTH
        };
        if header_length < least || header_length > first_cluster || !header_length.is_multiple_of(8) {
            return Err(HeaderError::Damaged("its length cannot be right"));
        }
        if refcount_order > 6 {
            return Err(HeaderError::Damaged(
                "its reference counts have more than 64 bits",
            ));
        }
        let backing_offset = be64(&start, 8).unwrap_or(0);
        // Old programs wrote the name directly behind a header of version 2.
        let extensions_end = match (version, backing_offset) {
            (2, 1..) => first_cluster.min(backing_offset),
            _ => first_cluster,
        };
        let extensions = Extensions::read(file, header_length..extensions_end, version)?;
        let features = match version {
            2 => 0,
            _ => be64(&start, 72).ok_or(cut_short)?,
        };
        check_features(features, &extensions)?;
        if field(32)? != 0 {
            return Err(HeaderError::Encrypted);
        }
        let size = be64(&start, 24).unwrap_or(0);
        let l1_entries = field(36)?;
        check_size(size, l1_entries, cluster_bits)?;
        let tables =
            Tables::of(&start, cluster_bits).ok_or(HeaderError::Damaged("a table is out of bounds"))?;
        check_tables(&tables, l1_entries, cluster_bits, length)?;
        let bitmaps = extensions.bitmaps;
        let has_data_file = features & 1 << EXTERNAL_DATA_FILE != 0;
        let data_file = has_data_file.then(|| DataFile {
            name: (extensions.data_file_name.as_deref())
                .map(|name| String::from_utf8_lossy(name).into_owned()),
            // A raw image has nothing under it.
            is_raw: backing_offset == 0
                && be64(&start, AUTOCLEAR.start).is_some_and(|features| features & RAW_DATA_FILE != 0),
        });
        let backing = match backing_offset {
            0 => None,
            offset => Some(read_backing(file, offset, field(16)?, first_cluster, extensions)?),
        };
        Ok(Self {
            version,
            cluster_bits,
            refcount_order,
            size,
            tables,
            snapshots: Records {
                count: field(60)?,
                start: be64(&start, 64).unwrap_or(0),
            },
            bitmaps,
            backing,
            data_file,
        })
    }
}

fn check_features(features: u64, extensions: &Extensions) -> Result<(), HeaderError> {
    let has = |bit| features & 1_u64 << bit != 0;
    let known = (1_u64 << (EXTENDED_L2 + 1)) - 1;
    if features & !known != 0 {
        let bit = (features & !known).trailing_zeros();
        let name = extensions.incompatible_feature(bit);
        return Err(HeaderError::UnknownFeature(FeatureName { bit, name }));
    }
    match () {
        _ if has(CORRUPT) => Err(HeaderError::Corrupt),
        _ if has(DIRTY) => Err(HeaderError::Dirty),
        _ if has(COMPRESSION_TYPE) => Err(HeaderError::CompressionType),
        _ if has(EXTENDED_L2) => Err(HeaderError::ExtendedL2),
        _ => Ok(()),
    }
}

fn check_size(size: u64, l1_entries: u32, cluster_bits: u32) -> Result<(), HeaderError> {
    if size == 0 {
        return Err(HeaderError::Empty);
    }
    if !size.is_multiple_of(512) {
        return Err(HeaderError::PartialSector(size));
    }
    if l1_entries > MAX_L1_ENTRIES {
        return Err(HeaderError::Damaged("its L1 table is larger than 32 MiB"));
    }
    // An L2 table is a cluster of 8-byte entries. At most 2^22 << 21 + 18, so that no offset overflows.
    let mapped = u64::from(l1_entries) << (2 * cluster_bits - 3);
    if size > mapped {
        return Err(HeaderError::Size {
            size,
            entries: l1_entries,
        });
    }
    Ok(())
}

fn check_tables(tables: &Tables, l1_entries: u32, cluster_bits: u32, length: u64) -> Result<(), HeaderError> {
    let damaged = |table, what| Err(HeaderError::Table { table, what });
    let cluster = 1 << cluster_bits;
    let refcount_bytes = tables.refcounts.end - tables.refcounts.start;
    if refcount_bytes == 0 || refcount_bytes > MAX_REFCOUNT_TABLE_BYTES {
        return damaged("refcount table", "it is empty or larger than 8 MiB");
    }
    debug_assert!(l1_entries > 0);
    for (table, range) in [("L1 table", &tables.l1), ("refcount table", &tables.refcounts)] {
        if !range.start.is_multiple_of(cluster) {
            return damaged(table, "it does not start at a cluster");
        }
        if range.start < cluster {
            return damaged(table, "it lies in the header's cluster");
        }
        if range.end > length {
            return damaged(table, "it ends behind the file");
        }
    }
    // The L1 table owns its last cluster whole.
    let l1_end = tables.l1.end.next_multiple_of(cluster);
    if tables.l1.start < tables.refcounts.end && tables.refcounts.start < l1_end {
        return damaged("L1 table", "it lies in the refcount table");
    }
    Ok(())
}

fn read_backing(
    file: &File,
    offset: u64,
    length: u32,
    first_cluster: u64,
    extensions: Extensions,
) -> Result<Backing, HeaderError> {
    if length == 0 || length > MAX_BACKING_NAME {
        return Err(HeaderError::Damaged(
            "its backing file's name is not of 1 to 1023 bytes",
        ));
    }
    if offset
        .checked_add(length.into())
        .is_none_or(|end| end >= first_cluster)
    {
        return Err(HeaderError::Damaged(
            "its backing file's name is not in the first cluster",
        ));
    }
    let mut name = vec![0; length as usize];
    file.read_exact_at(&mut name, offset)?;
    let name = String::from_utf8(name).map_err(|_| HeaderError::BackingName)?;
    // By "nbd://host/export" and "json:{...}" QEMU names things that are not files. A colon behind a slash belongs to the name
    // of a file.
    if name.split('/').next().is_some_and(|start| start.contains(':')) || name.contains('\0') {
        return Err(HeaderError::BackingProtocol { name });
    }
    let format = match extensions.backing_format {
        None => return Err(HeaderError::NoBackingFormat { name }),
        Some(format) => match format.as_slice() {
            b"raw" => Format::Raw,
            b"qcow2" => Format::Qcow2,
            other => {
                let format = String::from_utf8_lossy(other).into_owned();
                return Err(HeaderError::BackingFormat { name, format });
            }
        },
    };
    Ok(Backing { name, format })
}

/// What Coracle needs of the header extensions.
#[derive(Default)]
struct Extensions {
    backing_format: Option<Vec<u8>>,
    feature_names: Vec<u8>,
    bitmaps: Records,
    data_file_name: Option<Vec<u8>>,
}

impl Extensions {
    /// Reads the extensions. `area` begins at the header's end, and the extensions must end in it.
    fn read(file: &File, area: Range<u64>, version: u32) -> Result<Self, HeaderError> {
        let damaged = || HeaderError::Damaged("its extensions do not end in its cluster");
        let mut extensions = Self::default();
        let mut offset = area.start;
        for _ in 0..MAX_EXTENSIONS {
            let mut start = [0; 8];
            if offset.checked_add(8).is_none_or(|end| end > area.end) {
                // A file of version 2 may end with its header.
                return if version == 2 {
                    Ok(extensions)
                } else {
                    Err(damaged())
                };
            }
            file.read_exact_at(&mut start, offset)?;
            let (kind, length) = (be32(&start, 0), be32(&start, 4));
            let (Some(kind), Some(length)) = (kind, length) else {
                return Err(damaged());
            };
            if kind == END_OF_EXTENSIONS {
                return Ok(extensions);
            }
            offset += 8;
            let end = offset + u64::from(length);
            if end > area.end {
                return Err(damaged());
            }
            let mut data = vec![0; length as usize];
            match kind {
                BACKING_FORMAT => {
                    file.read_exact_at(&mut data, offset)?;
                    extensions.backing_format = Some(data);
                }
                FEATURE_NAMES if data.len().is_multiple_of(FEATURE_NAME_LENGTH) => {
                    file.read_exact_at(&mut data, offset)?;
                    extensions.feature_names = data;
                }
                BITMAPS if data.len() == BITMAPS_LENGTH => {
                    file.read_exact_at(&mut data, offset)?;
                    extensions.bitmaps = Records {
                        count: be32(&data, 0).unwrap_or(0),
                        start: be64(&data, 16).unwrap_or(0),
                    };
                }
                DATA_FILE_NAME if data.len() <= MAX_DATA_FILE_NAME => {
                    file.read_exact_at(&mut data, offset)?;
                    extensions.data_file_name = Some(data);
                }
                DATA_FILE_NAME => return Err(HeaderError::Damaged("its data file's name is too long")),
                BITMAPS => return Err(HeaderError::Damaged("its list of bitmaps is cut short")),
                // The library would read beyond the end of a last entry that is not whole.
                FEATURE_NAMES => return Err(HeaderError::Damaged("its table of feature names is cut short")),
                _ => {}
            }
            offset = end.next_multiple_of(8);
        }
        Err(HeaderError::Damaged("it has too many extensions"))
    }

    fn incompatible_feature(&self, bit: u32) -> Option<String> {
        let mut entries = self.feature_names.chunks_exact(FEATURE_NAME_LENGTH);
        let entry = entries.find(|entry| entry[0] == INCOMPATIBLE && u32::from(entry[1]) == bit)?;
        let name = entry[2..].split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }
}

pub fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
#[path = "header_test.rs"]
mod tests;
