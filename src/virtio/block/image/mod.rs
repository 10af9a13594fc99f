//! What holds a disk's data on the host.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffers::Buffers;
use super::request::{Limits, SECTOR_SIZE};
use crate::config::{Cache, Disk};
use geometry::Direct;
pub use raw::Raw;

mod geometry;
mod lock;
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
    #[error("disk id {id:?} is not 1 to 20 printable ASCII characters (choose a shorter, plainer one)")]
    Id { id: String },
}

impl OpenError {
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// An open and locked image of a whole number of sectors. Its size is what it was when it was opened.
pub struct Image {
    path: PathBuf,
    limits: Limits,
    /// In bytes: what the host writes as a whole.
    physical_block_size: u64,
    data: Raw,
    is_direct: bool,
    /// A flush failed. The host may have dropped the data and would call the next flush a success, so none
    /// succeeds any more.
    lost_data: AtomicBool,
}

impl Image {
    pub fn open(disk: &Disk) -> Result<Self, OpenError> {
        let path = disk.file.as_path();
        let (read_only, is_direct) = (disk.ro, disk.cache == Cache::Direct);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => OpenError::Missing { path: path.into() },
            io::ErrorKind::InvalidInput if is_direct => OpenError::NotDirect {
                path: path.into(),
                source,
            },
            kind => OpenError::Open {
                path: path.into(),
                source,
                advice: advice(kind, read_only),
            },
        };
        // Before it is opened, which would wait for ever on a FIFO and set some devices off.
        check_kind(path, &path.metadata().map_err(failed)?)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(if is_direct { libc::O_DIRECT } else { 0 })
            .open(path)
            .map_err(failed)?;
        lock::lock(&file, path, read_only)?;
        let metadata = file.metadata().map_err(failed)?;
        // Another file may have come in its place.
        check_kind(path, &metadata)?;
        let direct = match is_direct {
            true => Some(Direct::of(&file).map_err(failed)?),
            false => None,
        };
        // A block device has no size in its metadata; both have an end.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size == 0 {
            return Err(OpenError::Empty { path: path.into() });
        }
        if !size.is_multiple_of(SECTOR_SIZE) {
            return Err(OpenError::PartialSector {
                path: path.into(),
                size,
            });
        }
        let block_size = direct.map_or(SECTOR_SIZE, |direct| direct.offset_alignment);
        if !size.is_multiple_of(block_size) {
            return Err(OpenError::PartialBlock {
                path: path.into(),
                size,
                block: block_size,
            });
        }
        let physical_block_size = geometry::physical_block_size(&file, &metadata).max(block_size);
        Ok(Self {
            path: path.into(),
            limits: Limits {
                size,
                block_size,
                read_only,
            },
            physical_block_size,
            data: Raw::new(file, direct, metadata.file_type().is_block_device()),
            is_direct,
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

    /// Whether requests go past the host's page cache, which could answer them at once.
    pub fn waits_for_device(&self) -> bool {
        self.is_direct
    }

    /// The file that has the disk's bytes in place, if there is one.
    pub fn raw(&self) -> Option<&Raw> {
        Some(&self.data)
    }

    /// Fills `buffers` from `offset` on.
    pub fn read(&self, buffers: &mut Buffers, offset: u64) -> io::Result<()> {
        self.data.read(buffers, offset)
    }

    /// Writes all of `buffers` from `offset` on: `durable` says, before it returns.
    pub fn write(&self, buffers: &mut Buffers, offset: u64, durable: bool) -> io::Result<()> {
        self.data.write(buffers, offset, durable)
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> io::Result<()> {
        self.may_flush()?;
        self.flushed(self.data.flush())
    }

    /// Lets go of what the range holds.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.data.discard(offset, length)
    }

    /// Makes the range read as zeroes: `durable` says, before it returns.
    pub fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool, durable: bool) -> io::Result<()> {
        self.data.write_zeroes(offset, length, may_unmap)?;
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
