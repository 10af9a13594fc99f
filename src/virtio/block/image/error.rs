//! Why an image cannot be a disk: what, why, and what to do next.

use std::io;
use std::path::PathBuf;

use crate::virtio::block::qcow2;
use crate::virtio::block::request::SECTOR_SIZE;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("disk image {path:?} does not exist (make one: truncate -s 1G {path:?})")]
    Missing { path: PathBuf },
    #[error("cannot open disk image {path:?}: {source} ({advice})")]
    Open {
        path: PathBuf,
        source: io::Error,
        advice: &'static str,
    },
    #[error("disk image {path:?} is {found}, not a file or a block device (give the path of a raw image)")]
    NotAnImage { path: PathBuf, found: &'static str },
    #[error(
        "disk image {path:?} is in use by {holder} (wait for it to end, or attach the image with ',ro' or \
         ',ephemeral' everywhere)"
    )]
    InUse { path: PathBuf, holder: String },
    #[error("disk image {path:?} is empty (give it a size: truncate -s 1G {path:?})")]
    Empty { path: PathBuf },
    #[error(
        "disk image {path:?} has {size} bytes, no multiple of the sector size {SECTOR_SIZE} \
         (is it a raw image? round its size up: truncate -s %{SECTOR_SIZE} {path:?})"
    )]
    PartialSector { path: PathBuf, size: u64 },
    #[error(
        "disk image {path:?} cannot be read and written past the page cache: {source} (its file system cannot do \
         that: leave out cache=direct)"
    )]
    NotDirect { path: PathBuf, source: io::Error },
    #[error(
        "disk image {path:?} has {size} bytes, no multiple of the {block} bytes that direct I/O takes there (leave \
         out cache=direct)"
    )]
    PartialBlock { path: PathBuf, size: u64, block: u64 },
    #[error(
        "disk image {path:?} begins like a qcow2 file and is not called one (say what it is: add ,format=qcow2 or \
         ,format=raw)"
    )]
    Ambiguous { path: PathBuf },
    #[error(
        "cannot make a temporary file in {directory:?} for what is written to disk image {path:?}: {source} (name a \
         directory with room in it: TMPDIR=/var/tmp)"
    )]
    Temporary {
        directory: PathBuf,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Qcow2(#[from] qcow2::Error),
    #[error("disk id {id:?} is not 1 to 20 printable ASCII characters (choose a shorter, plainer one)")]
    Id { id: String },
}

impl OpenError {
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing { .. } => true,
            Self::Qcow2(error) => error.is_missing(),
            _ => false,
        }
    }
}

/// What to do when a file cannot be opened.
pub fn advice(kind: io::ErrorKind, read_only: bool) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied if read_only => "check its permissions with ls -l",
        io::ErrorKind::PermissionDenied => {
            "check its permissions with ls -l, or attach it read-only: add ,ro"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::ExecutableFileBusy => {
            "attach it read-only: add ,ro"
        }
        _ => "check the path and the file",
    }
}
