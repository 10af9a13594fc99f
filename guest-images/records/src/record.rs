//! A record: numbered and checksummed, so that whatever else lies in its place is told from it.
//!
//! Little-endian: magic (8 bytes), image (8), number (8), stream (4), length of the whole record (4), content, CRC-32 of
//! all that is before it (4).

use std::fmt;

const MAGIC: &[u8; 8] = b"record 1";
const HEADER: usize = 32;
const CHECKSUM: usize = 4;
/// The shortest record: no content.
pub const SHORTEST: usize = HEADER + CHECKSUM;

/// What a record belongs to: the image that it was written to, by its number, and a stream there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub image: u64,
    pub stream: u32,
}

/// Why bytes do not begin with a record of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// They end before it does.
    Short,
    NoMagic,
    /// A record of another image or stream.
    Foreign,
    Checksum,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "cut short",
            Self::NoMagic => "no record",
            Self::Foreign => "a record of another image or stream",
            Self::Checksum => "a wrong checksum",
        })
    }
}

/// The record `number` of `place`, `length` bytes of it, at least [`SHORTEST`].
pub fn encode(place: Place, number: u64, length: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(length);
    record.extend(MAGIC);
    record.extend(place.image.to_le_bytes());
    record.extend(number.to_le_bytes());
    record.extend(place.stream.to_le_bytes());
    record.extend((length as u32).to_le_bytes());
    // Never the same bytes in two places: a page of one record does not pass for a page of another.
    let mut state = place.image ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(place.stream) | 1;
    while record.len() < length - CHECKSUM {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        record.extend(state.to_le_bytes());
    }
    record.truncate(length - CHECKSUM);
    record.extend(crc32fast::hash(&record).to_le_bytes());
    record
}

/// Number and length of the record of `place` that `bytes` begin with.
pub fn decode(place: Place, bytes: &[u8]) -> Result<(u64, usize), Flaw> {
    let (header, _) = bytes.split_first_chunk::<HEADER>().ok_or(Flaw::Short)?;
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| header[at + index]));
    if word(0) != u64::from_le_bytes(*MAGIC) {
        return Err(Flaw::NoMagic);
    }
    if word(8) != place.image || word(24) as u32 != place.stream {
        return Err(Flaw::Foreign);
    }
    let length = (word(24) >> 32) as usize;
    if length < SHORTEST {
        return Err(Flaw::Checksum);
    }
    let (hashed, checksum) = bytes
        .get(..length)
        .and_then(|record| record.split_last_chunk::<CHECKSUM>())
        .ok_or(Flaw::Short)?;
    if crc32fast::hash(hashed) != u32::from_le_bytes(*checksum) {
        return Err(Flaw::Checksum);
    }
    Ok((word(16), length))
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
