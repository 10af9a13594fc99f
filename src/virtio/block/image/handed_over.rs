//! Checks the files of a disk that somebody else has opened, and makes the disk's data of them.

use std::fs::File;

use super::error::OpenError;
use super::joined::Joined;
use super::lock::Locked;
use super::opening;
use crate::config::Disk;

/// The data of a disk that is only read: those of `files`, one behind the other. Whoever opened them has locked them if that is
/// needed.
pub fn join(disk: &Disk, files: Vec<File>) -> Result<Joined, OpenError> {
    let path = || disk.file.clone();
    let mut parts = Vec::with_capacity(files.len());
    for file in files {
        let metadata = file
            .metadata()
            .map_err(|source| opening::cannot_open(disk, source))?;
        opening::check_kind(&disk.file, &metadata)?;
        parts.push((file, metadata.len()));
    }
    let joined = Joined::new(parts).ok_or_else(|| OpenError::TooLarge { path: path() })?;
    match joined.size() {
        0 => Err(OpenError::NothingHandedOver { path: path() }),
        _ => Ok(joined),
    }
}

/// The file of a disk that is written, and its size in bytes.
pub fn to_write(disk: &Disk, files: Vec<File>) -> Result<(Locked, u64), OpenError> {
    let path = || disk.file.clone();
    let file = match <[File; 1]>::try_from(files) {
        Ok([file]) => file,
        Err(files) if files.is_empty() => return Err(OpenError::NothingHandedOver { path: path() }),
        Err(files) => {
            return Err(OpenError::Joined {
                path: path(),
                count: files.len(),
            });
        }
    };
    let metadata = file
        .metadata()
        .map_err(|source| opening::cannot_open(disk, source))?;
    opening::check_kind(&disk.file, &metadata)?;
    let size = metadata.len();
    if size == 0 {
        return Err(OpenError::NothingHandedOver { path: path() });
    }
    opening::check_size(&disk.file, size, opening::block_size(None))?;
    Ok((opening::lock_handed_over(disk, file, &metadata)?, size))
}

#[cfg(test)]
#[path = "handed_over_test.rs"]
mod tests;
