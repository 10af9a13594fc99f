//! Refuses to give a guest the same file as two disks, when one of them would change under the other.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::error::OpenError;
use crate::config::Disk;

/// A file that a disk names: its image, or the data file of that.
struct Given<'d> {
    disk: &'d Disk,
    file: &'d Path,
    identity: Option<(u64, u64)>,
}

/// Refuses two disks that have a file in common, whatever its names are, unless both only read it. A missing file is no
/// error here, but later when it is opened.
pub fn check_each_once(disks: &[Disk]) -> Result<(), OpenError> {
    if disks.len() < 2 {
        return Ok(());
    }
    let mut before: Vec<Given> = Vec::new();
    for disk in disks {
        let files = [&disk.file].into_iter().chain(&disk.data).map(|file| Given {
            disk,
            file,
            identity: file.metadata().ok().map(|metadata| identity(&metadata)),
        });
        let files: Vec<_> = files.collect();
        for second in &files {
            let same = before.iter().find(|first| {
                let is_same = first.identity.is_some() && first.identity == second.identity;
                is_same && !(first.disk.is_only_read() && disk.is_only_read())
            });
            if let Some(first) = same {
                return Err(OpenError::Twice {
                    first: first.file.into(),
                    second: second.file.into(),
                });
            }
        }
        before.extend(files);
    }
    Ok(())
}

/// What is the same for all names of one file. A block device can have several nodes, which are different files, so for
/// a device it is the device's number.
pub fn identity(metadata: &Metadata) -> (u64, u64) {
    match metadata.file_type().is_block_device() {
        true => (u64::MAX, metadata.rdev()),
        false => (metadata.dev(), metadata.ino()),
    }
}

#[cfg(test)]
#[path = "twice_test.rs"]
mod tests;
