//! Writes a root file system as EROFS: only metadata, which refer to the data in the layers' tars behind them (Linux, `fs/erofs`, from 6.4
//! on; Documentation/filesystems/erofs.rst).
//!
//! The disk that a guest sees is `[metadata][tar of the first layer][tar of the second]...`, each filled up to a multiple of
//! [`ALIGNMENT`](crate::layer::ALIGNMENT). Blocks have 512 bytes, because the data of a file in a tar begin at a multiple of that and
//! nothing else. Only this is copied into the metadata: pieces of sparse files that are not at such a multiple, and the end of a
//! file that other bytes than zeros follow in the tar.
//!
//! The metadata are the superblock; the inodes, each with its extended attributes and what else of it is inline; extended attributes
//! that several inodes share; and blocks of directories, of long symbolic links and of copied data.

mod chunks;
mod directory;
mod format;
mod layout;
mod shape;
mod sink;
mod write;
mod xattrs;

pub use format::begins;
pub use write::{Disk, write};

#[cfg(test)]
#[path = "erofs_test.rs"]
pub(crate) mod tests;
