//! What holds a disk's data on the host.

use std::env;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffers::Buffers;
use super::qcow2::{self, Qcow2};
use super::request::{Limits, SECTOR_SIZE};
use crate::config::{Cache, Disk, Format};
use geometry::Direct;
use overlay::Overlay;
pub use raw::Raw;

mod block_set;
mod geometry;
mod lock;
mod overlay;
pub mod raw;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("disk image {path:?} does not exist (make one: truncate -s 1G {path:?})")]
    Missing { path: PathBuf },
    #[error("cannot open disk image {path:?}: {source} ({advice})")]
    Open {
        path: PathBuf,
        source: io::Error,
        advice: &'static str,
    },
    #[error("disk image {path:?} is {found}, not a file or a block device (give the path of a raw image)")]
    NotAnImage { path: PathBuf, found: &'static str },
    #[error(
        "disk image {path:?} is in use by {holder} (wait for it to end, or attach the image with ',ro' or \
         ',ephemeral' everywhere)"
    )]
    InUse { path: PathBuf, holder: String },
    #[error("disk image {path:?} is empty (give it a size: truncate -s 1G {path:?})")]
    Empty { path: PathBuf },
    #[error(
        "disk image {path:?} has {size} bytes, no multiple of the sector size {SECTOR_SIZE} \
         (is it a raw image? round its size up: truncate -s %{SECTOR_SIZE} {path:?})"
    )]
    PartialSector { path: PathBuf, size: u64 },
    #[error(
        "disk image {path:?} cannot be read and written past the page cache: {source} (its file system cannot do \
         that: leave out cache=direct)"
    )]
    NotDirect { path: PathBuf, source: io::Error },
    #[error(
        "disk image {path:?} has {size} bytes, no multiple of the {block} bytes that direct I/O takes there (leave \
         out cache=direct)"
    )]
    PartialBlock { path: PathBuf, size: u64, block: u64 },
    #[error(
        "disk image {path:?} begins like a qcow2 file and is not called one (say what it is: add ,format=qcow2 or \
         ,format=raw)"
    )]
    Ambiguous { path: PathBuf },
    #[error(
        "cannot make a temporary file in {directory:?} for what is written to disk image {path:?}: {source} (name a \
         directory with room in it: TMPDIR=/var/tmp)"
    )]
    Temporary {
        directory: PathBuf,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Qcow2(#[from] qcow2::Error),
    #[error("disk id {id:?} is not 1 to 20 printable ASCII characters (choose a shorter, plainer one)")]
    Id { id: String },
}

impl OpenError {
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing { .. } => true,
            Self::Qcow2(error) => error.is_missing(),
            _ => false,
        }
    }
}

/// An open and locked image of a whole number of sectors. Its size is what it was when it was opened.
pub struct Image {
    path: PathBuf,
    limits: Limits,
    /// In bytes: what the host writes as a whole.
    physical_block_size: u64,
    data: Data,
    /// A flush failed. The host may have dropped the data and would call the next flush a success, so none
    /// succeeds any more.
    lost_data: AtomicBool,
}

enum Data {
    Raw(Raw),
    Qcow2(Qcow2),
    Overlay(Overlay),
}

impl Data {
    /// Fills `buffers` from `offset` on.
    fn read(&self, buffers: &mut Buffers, offset: u64) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.read(buffers, offset),
            // SAFETY: buffers are live memory, which any writer may change at any time.
            Self::Qcow2(image) => unsafe { image.read(buffers.iovecs(), offset) },
            Self::Overlay(overlay) => overlay.read(buffers, offset),
        }
    }

    /// All files that it is made of and that have names; `path` is that of the first.
    fn files<'a>(&'a self, path: &'a Path) -> Vec<&'a Path> {
        match self {
            Self::Raw(_) => vec![path],
            Self::Qcow2(image) => image.files().collect(),
            Self::Overlay(overlay) => overlay.base().files(path),
        }
    }
}

impl Image {
    pub fn open(disk: &Disk) -> Result<Self, OpenError> {
        let path = disk.file.as_path();
        let (file, metadata) = open_locked(disk)?;
        let failed = |source| cannot_open(disk, source);
        let is_direct = disk.cache == Cache::Direct;
        let physical_block_size = geometry::physical_block_size(&file, &metadata);
        let format = format_of(disk, &file).map_err(failed)?;
        let format = format.ok_or_else(|| OpenError::Ambiguous { path: path.into() })?;
        let (mut data, size, block_size) = if format == Format::Qcow2 {
            let image = Qcow2::open(file, disk)?;
            let size = image.size();
            (Data::Qcow2(image), size, SECTOR_SIZE)
        } else {
            let direct = match is_direct {
                true => Some(straight_to_device(disk, &file)?),
                false => None,
            };
            // A block device has no size in its metadata; both have an end.
            let size = (&file).seek(SeekFrom::End(0)).map_err(failed)?;
            let block_size = direct.map_or(SECTOR_SIZE, |direct| direct.offset_alignment);
            let is_block_device = metadata.file_type().is_block_device();
            (
                Data::Raw(Raw::new(file, direct, is_block_device)),
                size,
                block_size,
            )
        };
        check_size(path, size, block_size)?;
        let mut physical_block_size = physical_block_size.max(block_size);
        if disk.ephemeral {
            let directory = env::temp_dir();
            let overlay = Overlay::new(data, size, &directory).map_err(|source| OpenError::Temporary {
                directory,
                path: path.into(),
                source,
            })?;
            data = Data::Overlay(overlay);
            physical_block_size = physical_block_size.max(overlay::BLOCK);
        }
        Ok(Self {
            path: path.into(),
            limits: Limits {
                size,
                block_size,
                read_only: disk.ro,
            },
            physical_block_size,
            data,
            lost_data: AtomicBool::new(false),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What requests have to keep to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The size in bytes of the blocks that the host writes as a whole, a power of two.
    pub fn physical_block_size(&self) -> u64 {
        self.physical_block_size
    }

    /// The file that has the disk's bytes in place, if there is one.
    pub fn raw(&self) -> Option<&Raw> {
        match &self.data {
            Data::Raw(raw) => Some(raw),
            Data::Qcow2(_) | Data::Overlay(_) => None,
        }
    }

    /// All files that the disk is made of, its own first.
    pub fn files(&self) -> Vec<&Path> {
        self.data.files(&self.path)
    }

    /// Fills `buffers` from `offset` on.
    pub fn read(&self, buffers: &mut Buffers, offset: u64) -> io::Result<()> {
        self.data.read(buffers, offset)
    }

    /// Writes all of `buffers` from `offset` on: `durable` says, before it returns.
    pub fn write(&self, buffers: &mut Buffers, offset: u64, durable: bool) -> io::Result<()> {
        match &self.data {
            Data::Raw(raw) => raw.write(buffers, offset, durable),
            Data::Qcow2(image) => {
                // SAFETY: buffers are live memory, which any writer may change at any time.
                unsafe { image.write(buffers.iovecs(), offset) }?;
                if durable { self.flush() } else { Ok(()) }
            }
            Data::Overlay(overlay) => overlay.write(buffers, offset),
        }
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> io::Result<()> {
        match &self.data {
            Data::Raw(raw) => {
                self.may_flush()?;
                self.flushed(raw.flush())
            }
            // It knows which failures lose data: a full file system is none.
            Data::Qcow2(image) => image.flush(),
            Data::Overlay(_) => Ok(()),
        }
    }

    /// Lets go of what the range holds.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        match &self.data {
            Data::Raw(raw) => raw.discard(offset, length),
            Data::Qcow2(image) => image.discard(offset, length),
            Data::Overlay(overlay) => overlay.discard(offset, length),
        }
    }

    /// Makes the range read as zeroes: `durable` says, before it returns.
    pub fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool, durable: bool) -> io::Result<()> {
        match &self.data {
            Data::Raw(raw) => raw.write_zeroes(offset, length, may_unmap)?,
            Data::Qcow2(image) => image.write_zeroes(offset, length, may_unmap)?,
            Data::Overlay(overlay) => overlay.write_zeroes(offset, length)?,
        }
        if durable { self.flush() } else { Ok(()) }
    }

    /// Fails when a flush would promise what cannot be kept.
    pub fn may_flush(&self) -> io::Result<()> {
        match self.lost_data.load(Ordering::Relaxed) {
            true => Err(io::Error::other(
                "an earlier flush failed, so written data may be lost",
            )),
            false => Ok(()),
        }
    }

    /// Takes note of how a flush ended.
    pub fn flushed(&self, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|_| self.lost_data.store(true, Ordering::Relaxed))
    }
}

/// Opens the file that `disk` names for what is to be done with it, and locks it.
fn open_locked(disk: &Disk) -> Result<(File, Metadata), OpenError> {
    let path = disk.file.as_path();
    let failed = |source| cannot_open(disk, source);
    // Before it is opened, which would wait for ever on a FIFO and set some devices off.
    check_kind(path, &path.metadata().map_err(failed)?)?;
    let only_read = disk.ro || disk.ephemeral;
    let file = OpenOptions::new()
        .read(true)
        .write(!only_read)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    lock::lock(&file, path, only_read)?;
    let metadata = file.metadata().map_err(failed)?;
    // Another file may have come in its place.
    check_kind(path, &metadata)?;
    // Not waiting was for the FIFO that it might have been.
    geometry::set_status(&file, 0).map_err(failed)?;
    Ok((file, metadata))
}

fn cannot_open(disk: &Disk, source: io::Error) -> OpenError {
    let path = disk.file.clone();
    match source.kind() {
        io::ErrorKind::NotFound => OpenError::Missing { path },
        kind => OpenError::Open {
            path,
            source,
            advice: advice(kind, disk.ro || disk.ephemeral),
        },
    }
}

/// What the file is: as the person says, or else by its name; nothing when its first bytes say another thing. A guest
/// writes the first bytes of a raw image, so they alone decide nothing.
fn format_of(disk: &Disk, file: &File) -> io::Result<Option<Format>> {
    if disk.format.is_some() {
        return Ok(disk.format);
    }
    if disk
        .file
        .extension()
        .is_some_and(|extension| extension == "qcow2")
    {
        return Ok(Some(Format::Qcow2));
    }
    let mut magic = [0; qcow2::MAGIC.len()];
    let count = file.read_at(&mut magic, 0)?;
    Ok((count < magic.len() || magic != qcow2::MAGIC).then_some(Format::Raw))
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

fn advice(kind: io::ErrorKind, read_only: bool) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied if read_only => "check its permissions with ls -l",
        io::ErrorKind::PermissionDenied => {
            "check its permissions with ls -l, or attach it read-only: add ,ro"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::ExecutableFileBusy => {
            "attach it read-only: add ,ro"
        }
        _ => "check the path and the file",
    }
}

#[cfg(test)]
#[path = "image_test.rs"]
mod tests;
