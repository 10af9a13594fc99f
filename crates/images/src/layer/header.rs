//! The header of an entry: one block (POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format").

use std::ops::Range;

use super::BLOCK;

const NAME: Range<usize> = 0..100;
pub const MODE: Range<usize> = 100..108;
pub const UID: Range<usize> = 108..116;
pub const GID: Range<usize> = 116..124;
pub const SIZE: Range<usize> = 124..136;
pub const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
pub const MAJOR: Range<usize> = 329..337;
pub const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// star has times where others have the end of the prefix, and this mark at the end.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_MARK: Range<usize> = 508..512;

// GNU's first sparse format.
pub const SPARSE: Range<usize> = 386..482;
const IS_EXTENDED: usize = 482;
pub const REAL_SIZE: Range<usize> = 483..495;

pub struct Header(pub [u8; BLOCK as usize]);

impl Header {
    pub fn is_end(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Whether the checksum is that of the header. Some old programs took the bytes for signed numbers.
    pub fn is_whole(&self) -> bool {
        let Some(said) = number(&self.0[CHECKSUM]) else {
            return false;
        };
        // The field itself counts as blanks.
        let is_sum = |value: fn(u8) -> i32| {
            let sum = |bytes: &[u8]| bytes.iter().map(|byte| value(*byte)).sum::<i32>();
            let blanks = CHECKSUM.len() as i32 * value(b' ');
            said == i64::from(sum(&self.0) - sum(&self.0[CHECKSUM]) + blanks)
        };
        is_sum(|byte| byte.into()) || is_sum(|byte| (byte as i8).into())
    }

    pub fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    pub fn path(&self, path: &mut Vec<u8>) {
        path.clear();
        if &self.0[MAGIC] == b"ustar\0" {
            let prefix = match &self.0[STAR_MARK] == b"tar\0" {
                true => STAR_PREFIX,
                false => PREFIX,
            };
            path.extend(text(&self.0[prefix]));
            if !path.is_empty() {
                path.push(b'/');
            }
        }
        path.extend(text(&self.0[NAME]));
    }

    pub fn link(&self) -> &[u8] {
        text(&self.0[LINK])
    }

    /// None for what is no number.
    pub fn number(&self, field: Range<usize>) -> Option<i64> {
        number(&self.0[field])
    }

    /// Whether more of the map of a sparse file follows.
    pub fn is_extended(&self) -> bool {
        self.0[IS_EXTENDED] != 0
    }
}

/// A field up to its first zero byte.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits between blanks and zero bytes, or, with the first bit set, a number in two's complement with the highest byte first.
/// A field without digits is zero.
pub fn number(field: &[u8]) -> Option<i64> {
    if let Some(first) = field.first().filter(|byte| **byte & 0x80 != 0) {
        let is_negative = first & 0x40 != 0;
        let start = i128::from(first & 0x3f) - if is_negative { 0x40 } else { 0 };
        // Twelve bytes are the most that a field has.
        let value = field[1..]
            .iter()
            .fold(start, |value, byte| value << 8 | i128::from(*byte));
        return value.try_into().ok();
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(first) = field.iter().position(|byte| !is_blank(byte)) else {
        return Some(0);
    };
    let digits = field[first..].split(|byte| is_blank(byte)).next()?;
    digits.iter().try_fold(0, |value: i64, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}
