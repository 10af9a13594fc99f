//! What is the same for all names of one image.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::loop_device::{Part, files_under};

/// Which image a file is, or is a part of.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    whole: Whole,
    /// The partition, if it is not the whole image but a partition of a loop device.
    part: Option<Part>,
}

/// Device and inode of a file. A block device can have several nodes, which are different files, so for a device it is the
/// device's number; and for a loop device, or a partition of one, it is the file under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    File { device: u64, inode: u64 },
    BlockDevice(u64),
}

impl Identity {
    pub fn of(file: &File) -> io::Result<Self> {
        let Some((under, opened)) = files_under(file).pop() else {
            return Ok(Self::without_loops(&file.metadata()?));
        };
        let whole = match opened {
            Ok(last) => Whole::of(&last.metadata()?),
            Err(_) => Whole::File {
                device: under.device,
                inode: under.inode,
            },
        };
        Ok(Self {
            whole,
            part: under.part,
        })
    }

    /// That of the file at `path`, if it is there. Only a block device is opened.
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        let without_loops = Self::without_loops(&metadata);
        if !metadata.file_type().is_block_device() {
            return Some(without_loops);
        }
        let mut options = OpenOptions::new();
        let device = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
        Some(
            device
                .and_then(|device| Self::of(&device))
                .unwrap_or(without_loops),
        )
    }

    /// Whether both may have bytes in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.whole == other.whole && !self.is_beside(other)
    }

    /// Whether both are partitions of one loop device, and not the same one.
    pub fn is_beside(self, other: Self) -> bool {
        let parts = self.part.zip(other.part);
        self.whole == other.whole && parts.is_some_and(|(one, other)| one.of == other.of && one != other)
    }

    fn without_loops(metadata: &Metadata) -> Self {
        Self {
            whole: Whole::of(metadata),
            part: None,
        }
    }
}

impl Whole {
    fn of(metadata: &Metadata) -> Self {
        match metadata.file_type().is_block_device() {
            true => Self::BlockDevice(metadata.rdev()),
            false => Self::File {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
        }
    }
}
