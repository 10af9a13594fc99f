//! What an archive says of one file.

use crate::refused;
use std::io;

/// Permission bits, with set-user-ID, set-group-ID and sticky.
const MODE: u32 = 0o7777;

/// A file, as an archive has it. Its data follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it is in the archive: anything.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// When it was last modified.
    pub modified: Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// So many bytes, of which those of `pieces` follow, or all if there is none.
    File {
        size: u64,
        pieces: Option<Vec<Piece>>,
    },
    Directory,
    /// To this path: anything.
    Symlink(Vec<u8>),
    /// Another name of the file that this entry of the archive is: anything.
    HardLink(Vec<u8>),
    /// A device, by its major and minor number.
    Device {
        is_block: bool,
        number: (u32, u32),
    },
    Fifo,
    /// A type that is not known.
    Other(u8),
}

/// Data of a sparse file: what is between the pieces are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub offset: u64,
    pub length: u64,
}

/// Seconds since 1970, and nanoseconds after that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Entry {
    /// The names on the way to the file from where an archive is unpacked: none for that place itself. What has a name that
    /// leads out of there, or that no file can have, is refused.
    pub fn names(&self) -> io::Result<Vec<&[u8]>> {
        names(&self.path)
    }

    pub(crate) fn mode(&self) -> u32 {
        self.mode & MODE
    }
}

/// As [`Entry::names`], of any path. A slash in front counts for nothing, as in other programs that unpack archives.
pub(crate) fn names(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    let text = || String::from_utf8_lossy(&path[..path.len().min(100)]).into_owned();
    if path.len() > crate::PATH_MAX {
        return Err(refused(format!("a name is too long: {}...", text())));
    }
    if path.contains(&0) {
        return Err(refused(format!("a name has a zero byte in it: {}", text())));
    }
    let names: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    if names.contains(&&b".."[..]) {
        return Err(refused(format!("a name leads elsewhere by '..': {}", text())));
    }
    match names.len() > crate::DEPTH_MAX {
        true => Err(refused(format!("directories are too deep: {}...", text()))),
        false => Ok(names),
    }
}
