//! Reads an archive.

use std::io::{self, ErrorKind, Read};

use tar::{EntryType, GnuSparseHeader, Header};

use crate::entry::{Entry, Kind, Piece, Time};
use crate::pax::{decimal, time};
use crate::sparse::{PIECES_MAX, check_pieces, no_map, sparse_map, too_many_pieces};
use crate::{PATH_MAX, refused};

const BLOCK: usize = 512;
/// No extended header is longer: it has a path or two, and some numbers.
const EXTENDED_MAX: u64 = 64 << 10;
/// Extended headers in front of one entry.
const HEADERS_MAX: usize = 8;

/// Gives the entries of an archive one after the other, and the data of each.
pub struct Reader<R> {
    source: R,
    /// So many bytes of the entry's data were not read yet.
    left: u64,
    /// So many bytes follow the data.
    padding: u64,
}

/// What headers in front of an entry say of it.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<Time>,
    /// GNU tar's sparse formats, by major and minor number, and the size with all holes.
    sparse: [Option<u64>; 2],
    real_size: Option<u64>,
}

impl<R: Read> Reader<R> {
    pub fn new(source: R) -> Self {
        Self {
            source,
            left: 0,
            padding: 0,
        }
    }

    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next entry; none at the archive's end. What was not read of the last one's data is passed over. After an error the
    /// rest means nothing.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        self.pass_over(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut extended = Extended::default();
        for _ in 0..HEADERS_MAX {
            let mut header = Header::new_old();
            self.fill(header.as_mut_bytes())?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            if !is_whole(&header) {
                return Err(refused("this is no tar archive, or it is damaged"));
            }
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader => {
                    let bytes = self.text(header.entry_size()?, EXTENDED_MAX)?;
                    extended.read(&bytes)?;
                }
                EntryType::GNULongName | EntryType::GNULongLink => {
                    let mut bytes = self.text(header.entry_size()?, PATH_MAX as u64 + 1)?;
                    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
                    match kind {
                        EntryType::GNULongName => extended.path = Some(bytes),
                        _ => extended.link = Some(bytes),
                    }
                }
                EntryType::XGlobalHeader => {
                    let size = header.entry_size()?;
                    self.pass_over(size)?;
                    self.pass_over(padding(size))?;
                }
                _ => return self.entry(&header, extended).map(Some),
            }
        }
        Err(refused("too many headers are about one file"))
    }

    /// Reads data of the entry. Zero at its end, and never before.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left.try_into().unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = read(&mut self.source, &mut buffer[..most])?;
        if count == 0 {
            return Err(cut_off());
        }
        self.left -= count as u64;
        Ok(count)
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> io::Result<Entry> {
        let kind = header.entry_type();
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let has_data = !matches!(
            kind,
            EntryType::Directory
                | EntryType::Symlink
                | EntryType::Link
                | EntryType::Char
                | EntryType::Block
                | EntryType::Fifo
        );
        if has_data {
            self.left = match extended.size {
                Some(size) => size,
                None => header.entry_size()?,
            };
            // A stream never gets so far.
            if self.left > i64::MAX as u64 {
                return Err(refused("a file is larger than any can be"));
            }
            self.padding = padding(self.left);
        }
        let link = || {
            let link = extended.link.clone();
            let link = link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
            link.unwrap_or_default()
        };
        let number = |number: io::Result<Option<u32>>| Ok::<_, io::Error>(number?.unwrap_or(0));
        let device = |is_block| {
            let number = (number(header.device_major())?, number(header.device_minor())?);
            Ok::<_, io::Error>(Kind::Device { is_block, number })
        };
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous => match extended.sparse {
                // Older programs know no other mark of a directory.
                [None, None] if path.ends_with(b"/") && self.left == 0 => Kind::Directory,
                [None, None] => Kind::File {
                    size: self.left,
                    pieces: None,
                },
                [Some(1), Some(0)] => {
                    let size = extended
                        .real_size
                        .ok_or_else(|| refused("a sparse file has no size"))?;
                    let (pieces, length) = sparse_map(self.left, || {
                        let mut block = [0; BLOCK];
                        self.fill(&mut block).map(|()| block)
                    })?;
                    self.left -= length;
                    self.sparse(size, pieces)?
                }
                _ => return Err(no_map()),
            },
            EntryType::GNUSparse => {
                let gnu = header.as_gnu().ok_or_else(no_map)?;
                let size = gnu.real_size()?;
                let mut pieces = Vec::new();
                add_pieces(&mut pieces, &gnu.sparse)?;
                let mut goes_on = gnu.is_extended();
                while goes_on {
                    let mut more = tar::GnuExtSparseHeader::new();
                    self.fill(more.as_mut_bytes())?;
                    add_pieces(&mut pieces, more.sparse())?;
                    goes_on = more.is_extended();
                }
                self.sparse(size, pieces)?
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link()),
            EntryType::Link => Kind::HardLink(link()),
            EntryType::Char => device(false)?,
            EntryType::Block => device(true)?,
            EntryType::Fifo => Kind::Fifo,
            other => Kind::Other(other.as_byte()),
        };
        let id = |known: Option<u32>, header: io::Result<u64>| match known {
            Some(id) => Ok(id),
            None => header?
                .try_into()
                .map_err(|_| refused("an owner has a number that none can have")),
        };
        Ok(Entry {
            path,
            kind,
            mode: header.mode()?,
            uid: id(extended.uid, header.uid())?,
            gid: id(extended.gid, header.gid())?,
            modified: match extended.modified {
                Some(time) => time,
                None => Time {
                    seconds: header.mtime()?.try_into().unwrap_or(0),
                    nanoseconds: 0,
                },
            },
        })
    }

    /// A sparse file whose data, as much as the header says, is that of `pieces`.
    fn sparse(&mut self, size: u64, pieces: Vec<Piece>) -> io::Result<Kind> {
        check_pieces(&pieces, size, self.left)?;
        if size > i64::MAX as u64 {
            return Err(refused("a file is larger than any can be"));
        }
        Ok(Kind::File {
            size,
            pieces: Some(pieces),
        })
    }

    /// The data of a header about another entry.
    fn text(&mut self, size: u64, most: u64) -> io::Result<Vec<u8>> {
        if size > most {
            return Err(refused("a name is too long"));
        }
        // It fits, because `most` is small.
        let mut bytes = vec![0; size as usize];
        self.fill(&mut bytes)?;
        self.pass_over(padding(size))?;
        Ok(bytes)
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match read(&mut self.source, buffer)? {
                0 => return Err(cut_off()),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    fn pass_over(&mut self, mut count: u64) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while count > 0 {
            let most = count.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..most])?;
            count -= most as u64;
        }
        Ok(())
    }
}

impl Extended {
    /// Reads records, each `LENGTH KEYWORD=VALUE` and a newline, with the length of all of that (POSIX.1-2017, pax Extended Header).
    fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let damaged = || refused("an extended header is damaged");
        while !bytes.is_empty() {
            let blank = bytes.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length = decimal(&bytes[..blank]).ok_or_else(damaged)?;
            let record = usize::try_from(length)
                .ok()
                .and_then(|length| bytes.get(..length));
            let record = record.ok_or_else(damaged)?;
            let text = record.get(blank + 1..).and_then(|text| text.strip_suffix(b"\n"));
            let text = text.ok_or_else(damaged)?;
            let equals = text.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (keyword, value) = (&text[..equals], &text[equals + 1..]);
            let number = || decimal(value).ok_or_else(damaged);
            let id = || number()?.try_into().map_err(|_| damaged());
            match keyword {
                b"path" if self.sparse[0].is_none() => self.path = Some(value.to_vec()),
                b"GNU.sparse.name" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number()?),
                b"uid" => self.uid = Some(id()?),
                b"gid" => self.gid = Some(id()?),
                b"mtime" => self.modified = Some(time(value).ok_or_else(damaged)?),
                b"GNU.sparse.major" => self.sparse[0] = Some(number()?),
                b"GNU.sparse.minor" => self.sparse[1] = Some(number()?),
                b"GNU.sparse.realsize" => self.real_size = Some(number()?),
                // An older sparse format, without the other two.
                b"GNU.sparse.numblocks" | b"GNU.sparse.map" => self.sparse = [Some(0), Some(0)],
                _ => {}
            }
            bytes = &bytes[record.len()..];
        }
        Ok(())
    }
}

fn add_pieces(pieces: &mut Vec<Piece>, headers: &[GnuSparseHeader]) -> io::Result<()> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        if pieces.len() == PIECES_MAX {
            return Err(too_many_pieces());
        }
        pieces.push(Piece {
            offset: header.offset()?,
            length: header.length()?,
        });
    }
    Ok(())
}

/// Whether the checksum is that of the header.
fn is_whole(header: &Header) -> bool {
    let mut copy = header.clone();
    copy.set_cksum();
    matches!((header.cksum(), copy.cksum()), (Ok(said), Ok(is)) if said == is)
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn read(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn cut_off() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the archive is cut off")
}
