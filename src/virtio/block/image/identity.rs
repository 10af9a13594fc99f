//! What is the same for all names of one image.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::loop_device::files_under;

/// Which image a file is, or is a part of.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    whole: Whole,
    /// The number of the partition, if it is not the whole image but a partition of a loop device.
    part: Option<u64>,
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

    /// Whether both have bytes in common. Two partitions have none.
    pub fn overlaps(self, other: Self) -> bool {
        let are_two_parts = self.part.is_some() && other.part.is_some() && self.part != other.part;
        self.whole == other.whole && !are_two_parts
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
