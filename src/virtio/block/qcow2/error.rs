//! Why an image cannot be a disk: what, why, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use super::header::HeaderError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use disk image {path:?}: {source}")]
    Header { path: PathBuf, source: HeaderError },
    #[error("cannot use disk image {path:?}: {source} (is it damaged? look: qemu-img check {path:?})")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "disk image {image:?} needs its backing file {path:?}, which does not exist (put it there, or name its new \
         place: qemu-img rebase -u -b FILE -F FORMAT {image:?})"
    )]
    BackingMissing { image: PathBuf, path: PathBuf },
    #[error(
        "disk image {image:?} needs its backing file {path:?}, which cannot be opened: {source} (check its permissions)"
    )]
    BackingOpen {
        image: PathBuf,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "disk image {image:?} names {path:?} as its backing file, which is neither a file nor a block device (name \
         another: qemu-img rebase -u -b FILE -F FORMAT {image:?})"
    )]
    BackingKind { image: PathBuf, path: PathBuf },
    #[error(
        "disk image {image:?} needs its backing file {path:?}, which another guest writes (wait for it to end, or \
         give each guest an image of its own on a file that nobody writes)"
    )]
    BackingInUse { image: PathBuf, path: PathBuf },
    #[error(
        "disk image {image:?} names {path:?} as its backing file, which lies above it already (name another: qemu-img \
         rebase -u -b FILE -F FORMAT {image:?})"
    )]
    Circle { image: PathBuf, path: PathBuf },
    #[error(
        "disk image {image:?} and what lies above it are 64 files, and its backing file {path:?} is one more (merge \
         some: qemu-img commit, or qemu-img convert)"
    )]
    TooDeep { image: PathBuf, path: PathBuf },
}

impl Error {
    /// A file is missing, and nothing else is wrong.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::BackingMissing { .. })
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    pub(super) fn header(path: &Path, source: HeaderError) -> Self {
        Self::Header {
            path: path.into(),
            source,
        }
    }
}
