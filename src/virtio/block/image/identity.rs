//! What is the same for all names of one image.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::loop_device::files_under;

/// Device and inode of a file. A block device can have several nodes, which are different files, so for a device it is the
/// device's number; and for a loop device, or a partition of one, it is the identity of the file under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    File { device: u64, inode: u64 },
    BlockDevice(u64),
}

impl Identity {
    pub fn of(file: &File) -> io::Result<Self> {
        match files_under(file).pop() {
            None => Ok(Self::without_loops(&file.metadata()?)),
            Some((_, Ok(last))) => Ok(Self::without_loops(&last.metadata()?)),
            Some((under, Err(_))) => Ok(Self::File {
                device: under.device,
                inode: under.inode,
            }),
        }
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

    fn without_loops(metadata: &Metadata) -> Self {
        match metadata.file_type().is_block_device() {
            true => Self::BlockDevice(metadata.rdev()),
            false => Self::File {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
        }
    }
}
