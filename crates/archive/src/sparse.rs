//! Maps of sparse files (GNU tar manual, "Storing Sparse Files").

use std::io;

use crate::entry::Piece;
use crate::refused;

const BLOCK: usize = 512;
/// Pieces of a sparse file. They take a MiB of memory.
pub const PIECES_MAX: usize = 1 << 16;

/// The map of format 1.0, which is in front of the data and filled up to a block: how many pieces there are, and of each where it is and
/// how long. All are decimal numbers, a line each. `stored` is the length of map and data, and `next` gives the next block of them.
/// Also says how long the map is.
pub fn sparse_map(
    stored: u64,
    mut next: impl FnMut() -> io::Result<[u8; BLOCK]>,
) -> io::Result<(Vec<Piece>, u64)> {
    let mut block = [0; BLOCK];
    let mut position = BLOCK;
    let mut read = 0;
    let mut next_number = || -> io::Result<u64> {
        let mut number = 0;
        let mut digits = 0;
        loop {
            if position == BLOCK {
                if stored - read < BLOCK as u64 {
                    return Err(no_map());
                }
                block = next()?;
                read += BLOCK as u64;
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
        return Err(too_many_pieces());
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

/// Checks that the pieces of a file of that size are in order, end within it, and are as much data as is stored.
pub fn check_pieces(pieces: &[Piece], size: u64, stored: u64) -> io::Result<()> {
    let mut end = 0;
    let mut sum = 0u64;
    for Piece { offset, length } in pieces {
        let is_behind = *offset >= end;
        end = offset.saturating_add(*length);
        sum = sum.saturating_add(*length);
        if !is_behind || end > size {
            return Err(refused(
                "the pieces of a sparse file overlap, or are behind its end",
            ));
        }
    }
    match sum == stored {
        true => Ok(()),
        false => Err(refused("a sparse file has another size than its pieces")),
    }
}

pub fn too_many_pieces() -> io::Error {
    refused(format!("a sparse file has more than {PIECES_MAX} pieces"))
}

/// Of a map that makes no sense.
pub fn no_map() -> io::Error {
    refused(
        "the map of a sparse file is damaged, or in a format that is not understood: tar --format=pax makes one that is",
    )
}

#[cfg(test)]
#[path = "sparse_test.rs"]
mod tests;
