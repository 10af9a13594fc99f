//! Refuses to give a guest the same file as two disks, when one of them would change under the other.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::error::OpenError;
use crate::config::Disk;

/// Refuses two disks that are one file, whatever its names are, unless both only read it. A missing file is no error
/// here, but later when it is opened.
pub fn check_each_once(disks: &[Disk]) -> Result<(), OpenError> {
    if disks.len() < 2 {
        return Ok(());
    }
    let found = disks
        .iter()
        .map(|disk| disk.file.metadata().ok().map(|metadata| identity(&metadata)));
    let found: Vec<_> = found.collect();
    for (index, second) in disks.iter().enumerate() {
        for (first, identity) in disks.iter().zip(&found).take(index) {
            let is_same = identity.is_some() && found.get(index) == Some(identity);
            if is_same && !(first.is_only_read() && second.is_only_read()) {
                return Err(OpenError::Twice {
                    first: first.file.clone(),
                    second: second.file.clone(),
                });
            }
        }
    }
    Ok(())
}

/// What is the same for all names of one file. A block device can have several nodes, which are different files, so for
/// a device it is the device's number.
fn identity(metadata: &Metadata) -> (u64, u64) {
    match metadata.file_type().is_block_device() {
        true => (u64::MAX, metadata.rdev()),
        false => (metadata.dev(), metadata.ino()),
    }
}

#[cfg(test)]
#[path = "twice_test.rs"]
mod tests;
