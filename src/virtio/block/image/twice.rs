//! Disks that are the same file: a guest that has one of them for writing would write under the other.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::error::OpenError;
use crate::config::Disk;

/// Refuses two disks that are one file, by whatever names, unless both are only read. A file that is missing or no image
/// is told about where it is opened.
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

/// What two names of one file have in common: of a block device, its number, since its nodes are files of their own.
fn identity(metadata: &Metadata) -> (u64, u64) {
    match metadata.file_type().is_block_device() {
        true => (u64::MAX, metadata.rdev()),
        false => (metadata.dev(), metadata.ino()),
    }
}

#[cfg(test)]
#[path = "twice_test.rs"]
mod tests;
