//! What holds a disk's data on the host.

use std::env;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::qcow2::{self, Qcow2};
use super::request::{DISCARD_SECTORS_MAX, Limits, SECTOR_SIZE, WRITE_ZEROES_SECTORS_MAX};
use crate::config::{Disk, Format};
use crate::virtio::buffers::Buffers;
pub use error::OpenError;
pub use files::Files;
pub use joined::Joined;
use opening::{Opened, Purpose};
use overlay::Overlay;
pub use raw::Raw;
pub use twice::check_each_once;

mod block_set;
pub mod error;
mod files;
mod foreign;
mod geometry;
mod handed_over;
pub mod identity;
mod joined;
pub mod lock;
pub mod loop_device;
pub mod opening;
mod overlay;
mod qemu_locks;
pub mod raw;
mod space;
mod twice;

/// Why an image cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Qcow2(#[from] qcow2::Error),
}

impl ImageError {
    /// Whether a file that the person or the image names does not exist.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Open(error) => error.is_missing(),
            Self::Qcow2(error) => error.is_missing(),
        }
    }
}

/// An open and locked image of a whole number of sectors. Its size is what it was when it was opened.
pub struct Image {
    path: PathBuf,
    limits: Limits,
    /// The size in bytes of the blocks that the host always writes whole.
    physical_block_size: u64,
    data: Data,
    /// Whether a flush failed. The host may have dropped the data, and would report the next flush as a success all the
    /// same, so every later flush fails here.
    lost_data: AtomicBool,
}

/// What [`Image::look`] found out.
pub struct Looked {
    pub format: Format,
    /// The files under the image, from the first to the last, as texts for a person.
    pub backing: Vec<String>,
    /// The data file of the image, as text for a person.
    pub data: Option<String>,
}

impl Looked {
    /// The answer for a raw image.
    pub fn raw() -> Self {
        Self {
            format: Format::Raw,
            backing: Vec::new(),
            data: None,
        }
    }
}

enum Data {
    Raw(Raw),
    /// It is never written.
    Joined(Joined),
    Qcow2(Qcow2),
    Overlay(Overlay),
}

impl Data {
    /// Fills `buffers` from `offset` on.
    fn read(&self, buffers: &mut Buffers, offset: u64) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.read(buffers, offset),
            Self::Joined(joined) => joined.read(buffers, offset),
            // SAFETY: buffers are live memory, which any writer may change at any time.
            Self::Qcow2(image) => unsafe { image.read(buffers.iovecs(), offset) },
            Self::Overlay(overlay) => overlay.read(buffers, offset),
        }
    }
}

impl Image {
    pub fn open(disk: &Disk) -> Result<Self, ImageError> {
        let Opened {
            file,
            metadata,
            size,
            format,
        } = opening::open(disk, Purpose::Use)?;
        let physical_block_size = geometry::physical_block_size(&file, &metadata);
        if format == Format::Qcow2 {
            let image = Qcow2::open(file, disk)?;
            let size = image.size();
            return Self::of(disk, Data::Qcow2(image), size, SECTOR_SIZE, physical_block_size);
        }
        let direct = opening::prepare(disk, &file, size)?;
        let raw = Raw::new(file, direct, metadata.file_type().is_block_device());
        let block_size = opening::block_size(direct);
        Self::of(disk, Data::Raw(raw), size, block_size, physical_block_size)
    }

    /// An image of open `files`. If the disk is only read, they are joined; if it is written, there must be one.
    pub fn handed_over(disk: &Disk, files: Vec<File>) -> Result<Self, ImageError> {
        let (data, size) = match disk.is_only_read() {
            true => {
                let joined = handed_over::join(disk, files)?;
                let size = joined.size();
                (Data::Joined(joined), size)
            }
            false => {
                let (file, size) = handed_over::to_write(disk, files)?;
                (Data::Raw(Raw::new(file, None, false)), size)
            }
        };
        Self::of(disk, data, size, SECTOR_SIZE, joined::PAGE)
    }

    fn of(
        disk: &Disk,
        mut data: Data,
        size: u64,
        block_size: u64,
        physical_block_size: u64,
    ) -> Result<Self, ImageError> {
        let range_max = match &data {
            Data::Qcow2(image) if !disk.ephemeral => image.range_max() / SECTOR_SIZE,
            _ => u64::MAX,
        };
        let at_most = |sectors: u32| range_max.min(sectors.into()) as u32;
        let mut physical_block_size = physical_block_size.max(block_size);
        if disk.ephemeral {
            let directory = env::temp_dir();
            let overlay = Overlay::new(data, size, disk.limit(), &directory).map_err(|source| {
                OpenError::Temporary {
                    directory,
                    path: disk.file.clone(),
                    advice: error::limit_advice(&source)
                        .unwrap_or("name a directory with room in it: TMPDIR=/var/tmp"),
                    source,
                }
            })?;
            data = Data::Overlay(overlay);
            physical_block_size = physical_block_size.max(overlay::BLOCK);
        }
        Ok(Self {
            path: disk.file.clone(),
            limits: Limits {
                size,
                block_size,
                read_only: disk.ro,
                discard_sectors: at_most(DISCARD_SECTORS_MAX),
                write_zeroes_sectors: at_most(WRITE_ZEROES_SECTORS_MAX),
            },
            physical_block_size,
            data,
            lost_data: AtomicBool::new(false),
        })
    }

    /// Finds out what the image of `disk` is and what lies under it, without locking anything. Whatever is wrong with the file
    /// itself is an error here as it is in [`Image::open`].
    pub fn look(disk: &Disk) -> Result<Looked, ImageError> {
        let Opened {
            file, size, format, ..
        } = opening::open(disk, Purpose::Look)?;
        let (backing, data) = match format {
            Format::Raw => opening::prepare(disk, &file, size).map(|_| (Vec::new(), None))?,
            Format::Qcow2 => Qcow2::look(&file, size, disk)?,
        };
        Ok(Looked {
            format,
            backing,
            data,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The limits that every request has to keep.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The size in bytes of the blocks that the host always writes whole: a power of two.
    pub fn physical_block_size(&self) -> u64 {
        self.physical_block_size
    }

    /// The files in which each byte of the disk has its own place, if there are such files.
    pub fn files(&self) -> Option<Files<'_>> {
        match &self.data {
            Data::Raw(raw) => Some(Files::Raw(raw)),
            Data::Joined(joined) => Some(Files::Joined(joined)),
            Data::Qcow2(_) | Data::Overlay(_) => None,
        }
    }

    /// Fills `buffers` from `offset` on.
    pub fn read(&self, buffers: &mut Buffers, offset: u64) -> io::Result<()> {
        self.data.read(buffers, offset)
    }

    /// Writes all of `buffers` from `offset` on. With `durable`, the data is durable when this returns.
    pub fn write(&self, buffers: &mut Buffers, offset: u64, durable: bool) -> io::Result<()> {
        match &self.data {
            Data::Raw(raw) => raw.write(buffers, offset, durable),
            Data::Joined(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
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
            // It remembers lost data itself, because only it can tell: a full file system, for example, loses none.
            Data::Qcow2(image) => image.flush(),
            Data::Joined(_) | Data::Overlay(_) => Ok(()),
        }
    }

    /// Gives up the data in the range.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        match &self.data {
            Data::Raw(raw) => raw.discard(offset, length),
            Data::Joined(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Data::Qcow2(image) => image.discard(offset, length),
            Data::Overlay(overlay) => overlay.discard(offset, length),
        }
    }

    /// Makes the range read as zeroes. With `durable`, that is durable when this returns.
    pub fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool, durable: bool) -> io::Result<()> {
        match &self.data {
            Data::Raw(raw) => raw.write_zeroes(offset, length, may_unmap)?,
            Data::Joined(_) => return Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Data::Qcow2(image) => image.write_zeroes(offset, length, may_unmap)?,
            Data::Overlay(overlay) => overlay.write_zeroes(offset, length)?,
        }
        if durable { self.flush() } else { Ok(()) }
    }

    /// Fails if data was lost earlier, so that no flush may promise anything.
    pub fn may_flush(&self) -> io::Result<()> {
        match self.lost_data.load(Ordering::Relaxed) {
            true => Err(io::Error::other(
                "an earlier flush failed, so written data may be lost",
            )),
            false => Ok(()),
        }
    }

    /// Remembers whether a flush failed.
    pub fn flushed(&self, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|_| self.lost_data.store(true, Ordering::Relaxed))
    }
}

#[cfg(test)]
#[path = "image_test.rs"]
mod tests;
