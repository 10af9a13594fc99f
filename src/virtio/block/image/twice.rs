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

/// Refuses two disks that have a file in common, whatever its names are, unless both only read it; and two partitions of one
/// loop device, of which one is written and the other one only read. A missing file is no error here, but later when it is
/// opened. Files that are handed over have no names to look at: their locks refuse a second disk.
pub fn check_each_once(disks: &[Disk]) -> Result<(), OpenError> {
    if disks.len() < 2 {
        return Ok(());
    }
    let mut before: Vec<Given> = Vec::new();
    for disk in disks.iter().filter(|disk| !disk.handed_over) {
        let files = [&disk.file].into_iter().chain(&disk.data).map(|file| Given {
            disk,
            file,
            identity: Identity::at(file),
        });
        let files: Vec<_> = files.collect();
        for second in &files {
            before.iter().try_for_each(|first| check_pair(first, second))?;
        }
        before.extend(files);
    }
    Ok(())
}

fn check_pair(first: &Given, second: &Given) -> Result<(), OpenError> {
    let Some((one, other)) = first.identity.zip(second.identity) else {
        return Ok(());
    };
    let paths = || (first.file.into(), second.file.into());
    match (first.disk.is_only_read(), second.disk.is_only_read()) {
        (true, true) => Ok(()),
        _ if one.overlaps(other) => {
            let (first, second) = paths();
            Err(OpenError::Twice { first, second })
        }
        // The locks of the file under the device would refuse the second one.
        (true, false) | (false, true) if one.is_beside(other) => {
            let (first, second) = paths();
            Err(OpenError::ReadBesideWritten { first, second })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "twice_test.rs"]
mod tests;
