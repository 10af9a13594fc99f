//! The file that a disk names: what it is, and whether it can be one.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::error::{OpenError, advice};
use super::geometry::{self, Direct};
use super::lock;
use crate::config::{Cache, Disk, Format};
use crate::virtio::block::qcow2;
use crate::virtio::block::request::SECTOR_SIZE;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A guest's disk: locked, and open for writing unless it is only read.
    Use,
    /// To tell what it is: not locked, and never written.
    Look,
}

/// A disk's own file, open.
pub struct Opened {
    pub file: File,
    pub metadata: Metadata,
    pub format: Format,
}

/// Opens the file that `disk` names.
pub fn open(disk: &Disk, purpose: Purpose) -> Result<Opened, OpenError> {
    let path = disk.file.as_path();
    let failed = |source| cannot_open(disk, source);
    // Before it is opened, which would wait for ever on a FIFO and set some devices off.
    check_kind(path, &path.metadata().map_err(failed)?)?;
    let file = OpenOptions::new()
        .read(true)
        .write(purpose == Purpose::Use && !disk.is_only_read())
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    if purpose == Purpose::Use {
        lock::lock(&file, path, disk.is_only_read())?;
    }
    let metadata = file.metadata().map_err(failed)?;
    // Another file may have come in its place.
    check_kind(path, &metadata)?;
    // Not waiting was for the FIFO that it might have been.
    geometry::set_status(&file, 0).map_err(failed)?;
    let format = format_of(disk, &file)?;
    Ok(Opened {
        file,
        metadata,
        format,
    })
}

/// The size of a raw image in bytes, and what direct I/O asks of it, if this is that: from here on it is.
pub fn measure(disk: &Disk, file: &File) -> Result<(u64, Option<Direct>), OpenError> {
    let direct = match disk.cache {
        Cache::Direct => Some(straight_to_device(disk, file)?),
        Cache::Writeback | Cache::Writethrough => None,
    };
    let mut file = file;
    // A block device has no size in its metadata; both have an end.
    let size = file
        .seek(SeekFrom::End(0))
        .map_err(|source| cannot_open(disk, source))?;
    check_size(&disk.file, size, block_size(direct))?;
    Ok((size, direct))
}

/// What the guest's requests are multiples of.
pub fn block_size(direct: Option<Direct>) -> u64 {
    direct.map_or(SECTOR_SIZE, |direct| direct.offset_alignment)
}

fn cannot_open(disk: &Disk, source: io::Error) -> OpenError {
    let path = disk.file.clone();
    match source.kind() {
        io::ErrorKind::NotFound => OpenError::Missing { path },
        kind => OpenError::Open {
            path,
            source,
            advice: advice(kind, disk.is_only_read()),
        },
    }
}

/// From here on `file` is read and written past the page cache.
fn straight_to_device(disk: &Disk, file: &File) -> Result<Direct, OpenError> {
    geometry::set_status(file, libc::O_DIRECT).map_err(|source| OpenError::NotDirect {
        path: disk.file.clone(),
        source,
    })?;
    Direct::of(file).map_err(|source| cannot_open(disk, source))
}

fn check_size(path: &Path, size: u64, block: u64) -> Result<(), OpenError> {
    let path = || path.to_owned();
    match size {
        0 => Err(OpenError::Empty { path: path() }),
        size if !size.is_multiple_of(SECTOR_SIZE) => Err(OpenError::PartialSector { path: path(), size }),
        size if !size.is_multiple_of(block) => Err(OpenError::PartialBlock {
            path: path(),
            size,
            block,
        }),
        _ => Ok(()),
    }
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
    let kind = metadata.file_type();
    let found = match () {
        _ if kind.is_file() || kind.is_block_device() => return Ok(()),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a character device",
    };
    Err(OpenError::NotAnImage {
        path: path.into(),
        found,
    })
}

/// What the file is: as the person says, or else by its name, unless its first bytes say another thing. A guest writes
/// the first bytes of a raw image, so they alone decide nothing.
fn format_of(disk: &Disk, file: &File) -> Result<Format, OpenError> {
    if let Some(format) = disk.stated_format() {
        return Ok(format);
    }
    let mut magic = [0; qcow2::MAGIC.len()];
    let count = file
        .read_at(&mut magic, 0)
        .map_err(|source| cannot_open(disk, source))?;
    match count == magic.len() && magic == qcow2::MAGIC {
        true => Err(OpenError::Ambiguous {
            path: disk.file.clone(),
        }),
        false => Ok(Format::Raw),
    }
}
