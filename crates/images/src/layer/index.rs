//! Reads a layer's tar once, and says what is in it.

use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::mem;

use coracle_archive::{Piece, Time, no_map, sparse_map};

use super::header::{self, Header};
use super::path::{self, PATH_MAX};
use super::pax::Extended;
use super::sparse;
use super::{BLOCK, about, refused};

/// No extended header is longer: it has a path or two, and the extended attributes of a file.
const EXTENDED_MAX: u64 = 1 << 20;
/// Extended headers in front of one entry.
const HEADERS_MAX: usize = 8;
/// More than that no file system of Linux holds that images are made on: ext4's limit for a file.
const SIZE_MAX: u64 = 16 << 40;
/// Permission bits, with set-user-ID, set-group-ID and sticky.
const MODE: i64 = 0o7777;
/// Linux has so many bits for the two numbers of a device (`new_encode_dev`).
const MAJOR_BITS: u32 = 12;
const MINOR_BITS: u32 = 20;
/// Headers of small files are read together.
const BUFFER: usize = 32 << 10;

/// A file, a directory or whatever else a layer has at a path. Whiteouts are entries like all others here.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Relative to the root, with one slash between names. Empty for the root itself.
    pub path: &'a [u8],
    pub kind: Kind<'a>,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub modified: Time,
    pub xattrs: &'a [Xattr],
}

#[derive(Debug)]
pub enum Kind<'a> {
    File(Data<'a>),
    Directory,
    /// To this path: anything that Linux could have as one.
    Symlink(&'a [u8]),
    /// Another name of the file at this path, which is like that of an entry.
    HardLink(&'a [u8]),
    Device {
        is_block: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// Where the data of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data<'a> {
    /// In the tar: a multiple of 512.
    pub offset: u64,
    /// Of the file, with all holes.
    pub size: u64,
    /// Of a sparse file. Their data are one after the other in the tar.
    pub pieces: Option<&'a [Piece]>,
    /// Whether only zeros are behind the data, up to the block's end.
    pub has_clean_tail: bool,
}

/// An extended attribute, with the name's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// Gives the entries of a tar one after the other.
pub struct Index<R> {
    source: BufReader<R>,
    /// Of the tar, with what it is filled up with.
    size: u64,
    position: u64,
    /// Where the next header is.
    next: u64,
    path: Vec<u8>,
    link: Vec<u8>,
    xattrs: Vec<Xattr>,
    pieces: Vec<Piece>,
}

/// What kind of entry it is, while the rest of it is in an index's own fields.
enum Found {
    File {
        offset: u64,
        size: u64,
        is_sparse: bool,
        has_clean_tail: bool,
    },
    Directory,
    Symlink,
    HardLink,
    Device {
        is_block: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
}

impl<R: Read + Seek> Index<R> {
    pub fn new(mut tar: R) -> io::Result<Self> {
        let size = tar.seek(SeekFrom::End(0))?;
        tar.rewind()?;
        Ok(Self {
            source: BufReader::with_capacity(BUFFER, tar),
            size,
            position: 0,
            next: 0,
            path: Vec::new(),
            link: Vec::new(),
            xattrs: Vec::new(),
            pieces: Vec::new(),
        })
    }

    /// The next entry; none at the end, which is a block of zeros or the end of the file. After an error the rest means nothing.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry<'_>>> {
        let Some((header, extended)) = self.next_header()? else {
            return Ok(None);
        };
        // Only an error of the path itself has it as it came.
        let path = extended.sparse.name.as_ref().or(extended.path.as_ref());
        match path {
            Some(path) => self.path.clone_from(path),
            None => header.path(&mut self.path),
        }
        let had_slash = self.path.ends_with(b"/");
        path::clean(&mut self.path).map_err(|why| about(&self.path, why))?;
        let (found, mode, uid, gid, modified) = self
            .read_entry(&header, extended, had_slash)
            .map_err(|why| about(&self.path, why))?;
        let kind = match found {
            Found::File {
                offset,
                size,
                is_sparse,
                has_clean_tail,
            } => Kind::File(Data {
                offset,
                size,
                pieces: is_sparse.then_some(&*self.pieces),
                has_clean_tail,
            }),
            Found::Directory => Kind::Directory,
            Found::Symlink => Kind::Symlink(&self.link),
            Found::HardLink => Kind::HardLink(&self.link),
            Found::Device {
                is_block,
                major,
                minor,
            } => Kind::Device {
                is_block,
                major,
                minor,
            },
            Found::Fifo => Kind::Fifo,
        };
        Ok(Some(Entry {
            path: &self.path,
            kind,
            mode,
            uid,
            gid,
            modified,
            xattrs: &self.xattrs,
        }))
    }

    /// The header of an entry, and what headers in front of it say.
    fn next_header(&mut self) -> io::Result<Option<(Header, Extended)>> {
        let mut extended = Extended::default();
        for _ in 0..HEADERS_MAX {
            self.go_to(self.next)?;
            if self.position == self.size {
                return Ok(None);
            }
            let header = Header(self.block()?);
            if header.is_end() {
                return Ok(None);
            }
            if !header.is_whole() {
                return Err(refused(
                    "a layer is no tar archive, or it is damaged; get the image anew",
                ));
            }
            let length = || header.number(header::SIZE).and_then(|size| size.try_into().ok());
            let length = || length().ok_or_else(|| refused("an extended header of a layer has no length"));
            match header.kind() {
                b'x' => {
                    let bytes = self.text(length()?, EXTENDED_MAX)?;
                    extended.read(&bytes)?;
                }
                b'L' => extended.path = Some(self.name(length()?)?),
                b'K' => extended.link = Some(self.name(length()?)?),
                // Records about all entries. Container engines pass over them, so an image that needs them does not exist.
                b'g' => self.skip(length()?)?,
                _ => {
                    self.next = self.position;
                    return Ok(Some((header, extended)));
                }
            }
            self.next = self.position.next_multiple_of(BLOCK);
        }
        Err(refused(
            "a layer has too many extended headers in front of one entry",
        ))
    }

    /// Reads all that is said of the entry, up to its data.
    fn read_entry(
        &mut self,
        header: &Header,
        mut extended: Extended,
        had_slash: bool,
    ) -> io::Result<(Found, u16, u32, u32, Time)> {
        let found = match header.kind() {
            b'0' | 0 | b'7' | b'S' => self.file(header, &mut extended, had_slash)?,
            b'5' => Found::Directory,
            b'1' => {
                self.set_link(header, &mut extended);
                path::clean(&mut self.link)?;
                Found::HardLink
            }
            b'2' => {
                self.set_link(header, &mut extended);
                let length = self.link.len();
                if length == 0 || length > PATH_MAX || self.link.contains(&0) {
                    return Err(refused("no symbolic link can lead there"));
                }
                Found::Symlink
            }
            kind @ (b'3' | b'4') => {
                let number = |field, bits| {
                    let number = header.number(field).and_then(|number| u32::try_from(number).ok());
                    let number = number.filter(|number| number >> bits == 0);
                    number.ok_or_else(|| refused("Linux has no device with such numbers"))
                };
                Found::Device {
                    is_block: kind == b'4',
                    major: number(header::MAJOR, MAJOR_BITS)?,
                    minor: number(header::MINOR, MINOR_BITS)?,
                }
            }
            b'6' => Found::Fifo,
            other => {
                return Err(refused(format!(
                    "it is of a type that is not known, {:?}",
                    char::from(other)
                )));
            }
        };
        self.xattrs = mem::take(&mut extended.xattrs);
        let owner = |known: Option<u32>, field| {
            let said = || header.number(field).and_then(|number| number.try_into().ok());
            known
                .or_else(said)
                .ok_or_else(|| refused("no user and no group has such a number"))
        };
        let mode = header
            .number(header::MODE)
            .ok_or_else(|| refused("its mode is no number"))?;
        let seconds = || {
            header
                .number(header::MTIME)
                .ok_or_else(|| refused("its time is no number"))
        };
        let modified = match extended.modified {
            Some(time) => time,
            None => Time {
                seconds: seconds()?,
                nanoseconds: 0,
            },
        };
        let uid = owner(extended.uid, header::UID)?;
        let gid = owner(extended.gid, header::GID)?;
        // The mask leaves 12 bits.
        Ok((found, (mode & MODE) as u16, uid, gid, modified))
    }

    fn file(&mut self, header: &Header, extended: &mut Extended, had_slash: bool) -> io::Result<Found> {
        let said = || header.number(header::SIZE).and_then(|size| size.try_into().ok());
        let too_large = || refused(format!("a file has at most {} TiB", SIZE_MAX >> 40));
        let mut stored = extended.size.or_else(said).ok_or_else(too_large)?;
        let is_old_map = header.kind() == b'S';
        // Old programs know no other mark of a directory.
        if had_slash && stored == 0 && !is_old_map {
            return Ok(Found::Directory);
        }
        let sparse = &mut extended.sparse;
        let mut size = Some(stored);
        let pieces = match sparse.version {
            _ if is_old_map => {
                size = header
                    .number(header::REAL_SIZE)
                    .and_then(|size| size.try_into().ok());
                Some(sparse::old_map(header, || self.block())?)
            }
            [Some(1), Some(0)] => {
                size = sparse.size;
                let (pieces, length) = sparse_map(stored, || self.block())?;
                stored -= length;
                Some(pieces)
            }
            [None | Some(0), _] => {
                let pieces = sparse.pieces.take();
                if pieces.is_some() {
                    size = sparse.size;
                }
                pieces
            }
            _ => return Err(no_map()),
        };
        let size = size.ok_or_else(no_map)?;
        let offset = self.position;
        let end = offset
            .checked_add(stored)
            .filter(|end| *end <= self.size)
            .ok_or_else(cut_off)?;
        if size > SIZE_MAX {
            return Err(too_large());
        }
        let is_sparse = pieces.is_some();
        if let Some(pieces) = pieces {
            self.pieces = pieces;
            sparse::check(&mut self.pieces, size, stored)?;
        }
        self.next = end.next_multiple_of(BLOCK);
        let has_clean_tail = match end % BLOCK {
            0 => true,
            used => {
                self.go_to(end - used)?;
                let block = self.block()?;
                block[used as usize..].iter().all(|byte| *byte == 0)
            }
        };
        Ok(Found::File {
            offset,
            size,
            is_sparse,
            has_clean_tail,
        })
    }

    fn set_link(&mut self, header: &Header, extended: &mut Extended) {
        self.link = match extended.link.take() {
            Some(link) => link,
            None => header.link().to_vec(),
        };
    }

    /// The data of a header about another entry.
    fn text(&mut self, length: u64, most: u64) -> io::Result<Vec<u8>> {
        if length > most {
            return Err(refused(format!(
                "an extended header of a layer has at most {most} bytes"
            )));
        }
        // It fits, because `most` is small.
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A GNU long name, which ends with a zero byte.
    fn name(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = self.text(length, PATH_MAX as u64 + 1)?;
        bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
        Ok(bytes)
    }

    fn block(&mut self) -> io::Result<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        self.fill(&mut block)?;
        Ok(block)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.source.read_exact(buffer).map_err(|why| match why.kind() {
            ErrorKind::UnexpectedEof => cut_off(),
            _ => why,
        })?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let to = self.position.checked_add(length).ok_or_else(cut_off)?;
        self.go_to(to)
    }

    fn go_to(&mut self, position: u64) -> io::Result<()> {
        if position > self.size {
            return Err(cut_off());
        }
        // Both are at most the size of a file, which has a sign.
        self.source
            .seek_relative(position as i64 - self.position as i64)?;
        self.position = position;
        Ok(())
    }
}

fn cut_off() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "a layer is cut off; get the image anew")
}
