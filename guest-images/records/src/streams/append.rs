//! A file that grows by a record at a time: each needs room on the disk, and a new size of the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::{Open, Stream, odd_length, sync_directory};
use crate::record::{self, Place};

const NAME: &str = "append";

struct Append {
    file: File,
    place: Place,
}

impl Stream for Append {
    fn write(&mut self, number: u64) -> io::Result<()> {
        self.file
            .write_all(&record::encode(self.place, number, odd_length(number)))?;
        // Both must make a larger size durable.
        match number % 2 {
            0 => self.file.sync_all(),
            _ => self.file.sync_data(),
        }
    }
}

pub struct Found {
    pub last: u64,
    /// Where the last record ends.
    end: usize,
}

pub fn open(directory: &Path, place: Place) -> Result<Open, String> {
    let Found { last, end } = scan(directory, place)?;
    let file = || {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(directory.join(NAME))?;
        sync_directory(directory)?;
        // What is torn would stay before the records that follow.
        file.set_len(end as u64)?;
        Ok(file)
    };
    let file = file().map_err(|why: io::Error| why.to_string())?;
    Ok(Open {
        stream: Box::new(Append { file, place }),
        last,
    })
}

pub fn scan(directory: &Path, place: Place) -> Result<Found, String> {
    let bytes = match fs::read(directory.join(NAME)) {
        Err(why) if why.kind() == ErrorKind::NotFound => Vec::new(),
        read => read.map_err(|why| why.to_string())?,
    };
    let mut found = Found { last: 0, end: 0 };
    while let Ok((number, length)) = record::decode(place, &bytes[found.end..]) {
        if number != found.last + 1 {
            return Err(format!("record {} is followed by {number}", found.last));
        }
        found = Found {
            last: number,
            end: found.end + length,
        };
    }
    let rest = bytes.len() - found.end;
    let next = odd_length(found.last + 1);
    if rest > next {
        let last = found.last;
        return Err(format!(
            "{rest} bytes follow record {last}, and the next one has {next}"
        ));
    }
    Ok(found)
}
