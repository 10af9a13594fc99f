//! Trees of files as tar archives: the pax interchange format of POSIX.1-2017 (pax, "Extended Description"), with GNU tar's format
//! 1.0 for sparse files. Whoever reads one may be at the mercy of whoever wrote it: a guest, or a file from anywhere.
//!
//! - [`pack()`] writes a file or a directory as an archive. It follows no symbolic link inside.
//! - [`Reader`] gives the entries of an archive, and keeps little memory whatever they say.
//! - [`Unpacker`] puts entries into a directory, and nothing anywhere else: it opens every directory on the way by its name alone,
//!   and follows no symbolic link. A file gets its name when it is whole.
//! - [`destination()`] finds where a copy goes, by Docker's rules.
//! - [`decimal`], [`time`], [`sparse_map`] and [`check_pieces`] read what other readers of archives read, too.
//!
//! The fields of headers are those of the crate `tar`. Its own reader is not used: it keeps names of any length in memory, and
//! takes a file that is cut off for a shorter one.

mod aside;
mod destination;
mod entry;
mod pack;
mod pax;
mod reader;
mod sparse;
mod unpack;
mod writer;

pub use destination::{Destination, Source, destination};
pub use entry::{Entry, Kind, Piece, Time};
pub use pack::pack;
pub use pax::{decimal, time};
pub use reader::Reader;
pub use sparse::{PIECES_MAX, check_pieces, no_map, sparse_map, too_many_pieces};
pub use unpack::{Policy, Top, Unpacker};
pub use writer::Writer;

use std::fmt::Display;
use std::io;

/// Linux: `PATH_MAX`, without the zero at the end.
pub const PATH_MAX: usize = 4095;

/// Directories in each other. Each is open while what is in it is copied.
const DEPTH_MAX: usize = 512;

/// An error with a sentence around it, of the same kind. `name` may be hostile; whoever shows it makes it fit for a terminal.
fn failed(what: &str, name: &[u8], why: impl Into<io::Error>) -> io::Error {
    let why = why.into();
    let text = match why.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(errno) => errno.desc().to_owned(),
        None => why.to_string(),
    };
    io::Error::new(why.kind(), format!("cannot {what} {}: {text}", shown(name)))
}

/// A name that nobody can do anything with, or data that makes no sense.
fn refused(why: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
#[path = "archive_test.rs"]
mod tests;
