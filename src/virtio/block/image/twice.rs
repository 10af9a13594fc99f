//! Refuses to give a guest the same file as two disks, when one of them would change under the other.

use std::path::Path;

use super::error::OpenError;
use super::identity::Identity;
use crate::config::Disk;

/// A file that a disk names: its image, or the data file of that.
struct Given<'d> {
    disk: &'d Disk,
    file: &'d Path,
    identity: Option<Identity>,
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
            identity: Identity::at(file),
        });
        let files: Vec<_> = files.collect();
        for second in &files {
            let same = before.iter().find(|first| {
                let is_same = first
                    .identity
                    .zip(second.identity)
                    .is_some_and(|(first, second)| first.overlaps(second));
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

#[cfg(test)]
#[path = "twice_test.rs"]
mod tests;
