//! Maps of sparse files in the formats that only layers may have (GNU tar manual, "Storing Sparse Files").

use std::io;

use coracle_archive::{PIECES_MAX, Piece, check_pieces, no_map, too_many_pieces};

use super::BLOCK;
use super::header::{self, Header};

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
            return Err(too_many_pieces());
        }
        pieces.push(Piece { offset, length });
    }
    Ok(())
}

/// Checks the map of a file. Pieces without data go.
pub fn check(pieces: &mut Vec<Piece>, size: u64, stored: u64) -> io::Result<()> {
    check_pieces(pieces, size, stored)?;
    pieces.retain(|piece| piece.length > 0);
    Ok(())
}
