//! Streams of records on a file system: the ways in which programs make data durable.
//!
//! A stream writes its records in order, 1 first, and the next one only when the last one is durable. So after a crash the
//! records up to some number are there whole, the next one may be there, whole or torn, and of none after it is there a
//! trace.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::record::Place;

mod append;
mod files;
mod ring;

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Append,
    Ring,
    Files,
}

pub const KINDS: [Kind; 3] = [Kind::Append, Kind::Ring, Kind::Files];

pub trait Stream {
    /// Writes the record with this number, the one after the last. It is durable when this returns.
    fn write(&mut self, number: u64) -> io::Result<()>;
}

/// A stream that can be gone on with, and the number of its last record.
pub struct Open {
    pub stream: Box<dyn Stream>,
    pub last: u64,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Ring => "ring",
            Self::Files => "files",
        }
    }

    fn place(self, image: u64) -> Place {
        Place {
            image,
            stream: self as u32,
        }
    }

    /// Finds out where the stream in this directory ends, as [`Kind::check`] does, and makes ready to go on.
    pub fn open(self, directory: &Path, image: u64) -> Result<Open, String> {
        let place = self.place(image);
        match self {
            Self::Append => append::open(directory, place),
            Self::Ring => ring::open(directory, place),
            Self::Files => files::open(directory, place),
        }
    }

    /// The number of the stream's last whole record (0: none), or what is there that no crash leaves.
    pub fn check(self, directory: &Path, image: u64) -> Result<u64, String> {
        let place = self.place(image);
        match self {
            Self::Append => append::scan(directory, place).map(|found| found.last),
            Self::Ring => ring::scan(directory, place),
            Self::Files => files::scan(directory, place),
        }
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The length of a record where records have many: odd ones, from less than a sector to more than a page.
fn odd_length(number: u64) -> usize {
    100 + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 51) as usize
}

#[cfg(test)]
#[path = "streams_test.rs"]
mod tests;
