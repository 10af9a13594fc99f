//! A file for each record, under a passing name until it is durable, the oldest removed: what a careful program does
//! with its settings, and all of it the file system's metadata.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{Open, Stream, odd_length, sync_directory};
use crate::record::{self, Place};

const NAME: &str = "files";
const NEW: &str = "new";
/// Files that stay.
pub const KEPT: u64 = 32;

struct Files {
    directory: PathBuf,
    place: Place,
}

impl Stream for Files {
    fn write(&mut self, number: u64) -> io::Result<()> {
        let new = self.directory.join(NEW);
        let mut file = File::create(&new)?;
        file.write_all(&record::encode(self.place, number, odd_length(number)))?;
        file.sync_all()?;
        // Before the new one has its name: where that is seen, this has happened.
        if number > KEPT {
            match fs::remove_file(self.path(number - KEPT)) {
                // Removed before a crash.
                Err(why) if why.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        fs::rename(new, self.path(number))?;
        sync_directory(&self.directory)
    }
}

impl Files {
    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(number.to_string())
    }
}

pub fn open(directory: &Path, place: Place) -> Result<Open, String> {
    let last = scan(directory, place)?;
    let files = directory.join(NAME);
    let made = || match fs::create_dir(&files) {
        Err(why) if why.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(why) => Err(why),
        Ok(()) => sync_directory(directory),
    };
    made().map_err(|why| why.to_string())?;
    Ok(Open {
        stream: Box::new(Files {
            directory: files,
            place,
        }),
        last,
    })
}

pub fn scan(directory: &Path, place: Place) -> Result<u64, String> {
    let entries = match fs::read_dir(directory.join(NAME)) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(|why| why.to_string())?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|why| why.to_string())?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if name == NEW {
            continue;
        }
        let named: u64 = name
            .parse()
            .map_err(|_| format!("there is a file {:?}", entry.file_name()))?;
        let bytes = fs::read(entry.path()).map_err(|why| format!("file {named}: {why}"))?;
        match record::decode(place, &bytes) {
            Ok((number, length)) if number == named && length == bytes.len() => found.insert(number),
            Ok((number, length)) => {
                return Err(format!("file {named} has record {number} of {length} bytes"));
            }
            Err(flaw) => return Err(format!("file {named} is {flaw}")),
        };
    }
    let last = found.last().copied().unwrap_or(0);
    let oldest = (last + 1).saturating_sub(KEPT).max(1);
    let expected: BTreeSet<u64> = (oldest..=last).collect();
    // The oldest goes just before the one after the last comes.
    let next_begun = last >= KEPT && found.iter().eq(expected.iter().skip(1));
    if found != expected && !next_begun {
        return Err(format!("of files {oldest} to {last} there are {found:?}"));
    }
    Ok(last)
}
