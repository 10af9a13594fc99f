//! Layers of an OCI image: from a blob to a plain tar, and from that to its entries (OCI image specification, "Image Layer Filesystem
//! Changeset").
//!
//! - [`unpack()`] writes a layer's tar to a file.
//! - [`Index`] gives what the tar has, and where in it the data of files are.
//!
//! `coracle-archive` reads archives as well, but as a stream that it unpacks: it has neither extended attributes nor places of data, its
//! bounds are those of a copy from a guest, and it reads all data that it passes over. An index of a large layer seeks over them. Numbers,
//! times and maps of sparse files are read by the same functions.

mod header;
mod index;
mod path;
mod pax;
mod sparse;
mod unpack;

pub use coracle_archive::{Piece, Time};
pub use index::{Data, Entry, Index, Kind, Xattr};
pub(crate) use path::{NAME_MAX, WHITEOUT};
pub use unpack::{Unpacked, unpack};

use std::fmt::Display;
use std::io;

/// Where the parts of a disk begin: the metadata of a root file system, then the layers.
pub const ALIGNMENT: u64 = 4096;

/// A block of a tar archive.
pub(crate) const BLOCK: u64 = 512;

/// Files, directories and the like that all layers together may have.
pub const ENTRIES_MAX: usize = 2_000_000;

/// What makes no sense, and what nobody can do anything with.
pub(crate) fn refused(why: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

/// Says which entry of a layer is at fault. Whoever shows the name makes it fit for a terminal.
pub(crate) fn about(path: &[u8], why: io::Error) -> io::Error {
    let path = String::from_utf8_lossy(&path[..path.len().min(200)]);
    io::Error::new(
        why.kind(),
        format!("the layer's entry '{path}' cannot be used: {why}"),
    )
}

#[cfg(test)]
#[path = "layer_test.rs"]
mod tests;
