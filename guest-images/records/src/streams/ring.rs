//! A file with room for a number of records, each written over the one that is so many older: no room is found, no size
//! changes, the data's flush is all there is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Open, Stream, sync_directory};
use crate::record::{self, Place};

const NAME: &str = "ring";
const NAME_WHILE_MADE: &str = "ring.new";
pub const SLOTS: u64 = 64;
const LENGTH: usize = 8192;

struct Ring {
    file: File,
    place: Place,
}

impl Stream for Ring {
    fn write(&mut self, number: u64) -> io::Result<()> {
        let record = record::encode(self.place, number, LENGTH);
        self.file.write_all_at(&record, number % SLOTS * LENGTH as u64)?;
        self.file.sync_data()
    }
}

pub fn open(directory: &Path, place: Place) -> Result<Open, String> {
    let last = scan(directory, place)?;
    let file = || {
        if !directory.join(NAME).exists() {
            let new = directory.join(NAME_WHILE_MADE);
            fs::write(&new, vec![0; SLOTS as usize * LENGTH])?;
            File::open(&new)?.sync_all()?;
            fs::rename(new, directory.join(NAME))?;
            sync_directory(directory)?;
        }
        OpenOptions::new().write(true).open(directory.join(NAME))
    };
    let file = file().map_err(|why| why.to_string())?;
    Ok(Open {
        stream: Box::new(Ring { file, place }),
        last,
    })
}

pub fn scan(directory: &Path, place: Place) -> Result<u64, String> {
    let bytes = match fs::read(directory.join(NAME)) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(0),
        read => read.map_err(|why| why.to_string())?,
    };
    if bytes.len() != SLOTS as usize * LENGTH {
        return Err(format!("the file has {} bytes", bytes.len()));
    }
    let slots: Vec<_> = bytes
        .chunks(LENGTH)
        .map(|slot| record::decode(place, slot).map(|(number, _)| number))
        .collect();
    let last = slots.iter().flatten().copied().max().unwrap_or(0);
    // The slot of the record after the last may be torn.
    let oldest = (last + 1).saturating_sub(SLOTS) + 1;
    for number in oldest..=last {
        let slot = number % SLOTS;
        match slots[slot as usize] {
            Ok(found) if found == number => {}
            Ok(found) => {
                return Err(format!(
                    "the last record is {last}, and {found} is where {number} was"
                ));
            }
            Err(flaw) => {
                return Err(format!(
                    "the last record is {last}, and where {number} was is {flaw}"
                ));
            }
        }
    }
    Ok(last)
}
