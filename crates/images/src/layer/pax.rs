//! Extended headers: records about the next entry (POSIX.1-2017, pax Extended Header; star's `SCHILY.xattr`; GNU's sparse formats).

use std::io;

use coracle_archive::{PIECES_MAX, Piece, Time, decimal, time, too_many_pieces};

use super::index::Xattr;
use super::refused;

/// No single value that EROFS can hold is longer. Linux has one byte more.
const VALUE_MAX: usize = u16::MAX as usize;
/// Linux: `XATTR_NAME_MAX`.
const NAME_MAX: usize = 255;
/// Attributes of one file, and bytes of them all: ext4 has a sixteenth of that.
const XATTRS_MAX: usize = 255;
const XATTR_BYTES_MAX: usize = 128 << 10;

/// What headers in front of an entry say of it.
#[derive(Default)]
pub struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub modified: Option<Time>,
    pub xattrs: Vec<Xattr>,
    pub sparse: Sparse,
}

/// What they say of a sparse file.
#[derive(Default)]
pub struct Sparse {
    /// The other one is made up, for programs that do not know the formats.
    pub name: Option<Vec<u8>>,
    /// Major and minor number of the format, if it is 1.0 or later.
    pub version: [Option<u64>; 2],
    /// The size with all holes.
    pub size: Option<u64>,
    /// The map of formats 0.0 and 0.1.
    pub pieces: Option<Vec<Piece>>,
    /// In format 0.0, a piece of which only the offset was read.
    offset: Option<u64>,
}

impl Extended {
    /// Reads records, each `LENGTH KEYWORD=VALUE` and a newline, with the length of all of that.
    pub fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (record, rest) = split(bytes).ok_or_else(damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = rest;
        }
        Ok(())
    }

    fn record(&mut self, keyword: &[u8], value: &[u8]) -> io::Result<()> {
        if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
            return self.xattr(name, value);
        }
        // An empty value takes a record back, and the header counts.
        let number = || match value {
            b"" => Ok(None),
            _ => decimal(value).map(Some).ok_or_else(damaged),
        };
        let owner = || match number()?.map(u32::try_from) {
            None => Ok(None),
            Some(Ok(id)) => Ok(Some(id)),
            Some(Err(_)) => Err(refused("no user and no group has such a number")),
        };
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match keyword {
            b"path" => self.path = text(),
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = owner()?,
            b"gid" => self.gid = owner()?,
            b"mtime" => {
                self.modified = match value {
                    b"" => None,
                    _ => Some(time(value).ok_or_else(damaged)?),
                }
            }
            b"GNU.sparse.major" => self.sparse.version[0] = number()?,
            b"GNU.sparse.minor" => self.sparse.version[1] = number()?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.size = number()?,
            b"GNU.sparse.map" => self.sparse.map(value)?,
            b"GNU.sparse.offset" => self.sparse.offset = number()?,
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take().ok_or_else(damaged)?;
                self.sparse.piece(offset, number()?.ok_or_else(damaged)?)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> io::Result<()> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) {
            return Err(refused(format!(
                "the name of an extended attribute has 1 to {NAME_MAX} bytes, none of them zero"
            )));
        }
        if value.len() > VALUE_MAX {
            return Err(refused(format!(
                "an extended attribute has at most {VALUE_MAX} bytes"
            )));
        }
        self.xattrs.retain(|xattr| xattr.name != name);
        let bytes: usize = self
            .xattrs
            .iter()
            .map(|xattr| xattr.name.len() + xattr.value.len())
            .sum();
        if self.xattrs.len() == XATTRS_MAX || bytes + name.len() + value.len() > XATTR_BYTES_MAX {
            return Err(refused(format!(
                "a file has at most {XATTRS_MAX} extended attributes of {} KiB together",
                XATTR_BYTES_MAX >> 10
            )));
        }
        self.xattrs.push(Xattr {
            name: name.to_vec(),
            value: value.to_vec(),
        });
        Ok(())
    }
}

impl Sparse {
    /// The map of format 0.1: offsets and lengths in turn, with commas between them.
    fn map(&mut self, value: &[u8]) -> io::Result<()> {
        self.pieces = Some(Vec::new());
        let mut numbers = value
            .split(|byte| *byte == b',')
            .map(|text| decimal(text).ok_or_else(damaged));
        while let Some(offset) = numbers.next() {
            let length = numbers.next().ok_or_else(damaged)?;
            self.piece(offset?, length?)?;
        }
        Ok(())
    }

    fn piece(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let pieces = self.pieces.get_or_insert_default();
        if pieces.len() == PIECES_MAX {
            return Err(too_many_pieces());
        }
        pieces.push(Piece { offset, length });
        Ok(())
    }
}

/// The first record without its length and its newline, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = bytes.iter().position(|byte| *byte == b' ')?;
    let length = decimal(&bytes[..blank])?.try_into().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    Some((record.get(blank + 1..)?.strip_suffix(b"\n")?, rest))
}

fn damaged() -> io::Error {
    refused("an extended header is damaged; get the image anew")
}
