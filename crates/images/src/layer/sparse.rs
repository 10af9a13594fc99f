//! Maps of sparse files (GNU tar manual, "Storing Sparse Files").

use std::io::{self, Read, Seek};

use super::header::{self, Header};
use super::{BLOCK, refused};

/// Pieces of one file. They take a MiB of memory.
pub const PIECES_MAX: usize = 1 << 16;

/// Data of a sparse file: what is between the pieces are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// In the file.
    pub offset: u64,
    /// More than zero.
    pub length: u64,
}

/// Offset and length, twelve bytes each.
const ENTRY: usize = 24;
/// In a block that only goes on with the map.
const MORE: usize = 21 * ENTRY;
const IS_EXTENDED: usize = 504;

/// The map of GNU's first format: in the header, and in blocks behind it.
pub fn old_map(
    header: &Header,
    mut next: impl FnMut() -> io::Result<[u8; BLOCK as usize]>,
) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    add(&mut pieces, &header.0[header::SPARSE])?;
    let mut goes_on = header.is_extended();
    while goes_on {
        let block = next()?;
        add(&mut pieces, &block[..MORE])?;
        goes_on = block[IS_EXTENDED] != 0;
    }
    Ok(pieces)
}

fn add(pieces: &mut Vec<Piece>, entries: &[u8]) -> io::Result<()> {
    for entry in entries.chunks_exact(ENTRY) {
        // An entry that is not used.
        if entry[0] == 0 || entry[ENTRY / 2] == 0 {
            break;
        }
        let number = |field| header::number(field).and_then(|number| number.try_into().ok());
        let (offset, length) = entry.split_at(ENTRY / 2);
        let (Some(offset), Some(length)) = (number(offset), number(length)) else {
            return Err(no_map());
        };
        if pieces.len() == PIECES_MAX {
            return Err(too_many());
        }
        pieces.push(Piece { offset, length });
    }
    Ok(())
}

/// The map of format 1.0, which is in front of the data and filled up to a block: how many pieces there are, and of each where it is and
/// how long. All are decimal numbers, a line each. `length` is that of the map and the data. Gives the length of the map, too.
pub fn new_map(source: &mut (impl Read + Seek), length: u64) -> io::Result<(Vec<Piece>, u64)> {
    let mut block = [0; BLOCK as usize];
    let mut position = block.len();
    let mut read = 0;
    let mut next_number = || -> io::Result<u64> {
        let mut number = 0;
        let mut digits = 0;
        loop {
            if position == block.len() {
                if length - read < BLOCK {
                    return Err(no_map());
                }
                source.read_exact(&mut block)?;
                read += BLOCK;
                position = 0;
            }
            let byte = block[position];
            position += 1;
            match byte {
                b'0'..=b'9' if digits < 19 => number = number * 10 + u64::from(byte - b'0'),
                b'\n' if digits > 0 => return Ok(number),
                _ => return Err(no_map()),
            }
            digits += 1;
        }
    };
    let count = next_number()?;
    if count > PIECES_MAX as u64 {
        return Err(too_many());
    }
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push(Piece {
            offset: next_number()?,
            length: next_number()?,
        });
    }
    Ok((pieces, read))
}

/// Checks that the pieces are in order, end within the file, and are as much data as there is. Those without data go.
pub fn check(pieces: &mut Vec<Piece>, size: u64, stored: u64) -> io::Result<()> {
    let mut end = 0;
    let mut sum = 0u64;
    for Piece { offset, length } in &*pieces {
        let is_behind = *offset >= end;
        end = offset.saturating_add(*length);
        sum = sum.saturating_add(*length);
        if !is_behind || end > size {
            return Err(refused(
                "the pieces of a sparse file overlap, or are behind its end",
            ));
        }
    }
    if sum != stored {
        return Err(refused("a sparse file has another size than its pieces"));
    }
    pieces.retain(|piece| piece.length > 0);
    Ok(())
}

pub fn too_many() -> io::Error {
    refused(format!("a sparse file has more than {PIECES_MAX} pieces"))
}

pub fn no_map() -> io::Error {
    refused("the map of a sparse file is damaged, or in a format that is not understood")
}
