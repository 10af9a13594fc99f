//! Why an image cannot be a disk: what, why, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use super::lock::Busy;
use crate::plain_text::shell_word;
use crate::virtio::block::request::SECTOR_SIZE;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("disk image {path:?} does not exist (make one: {make})")]
    Missing { path: PathBuf, make: String },
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
    InUse { path: PathBuf, holder: Busy },
    #[error(
        "disk image {path:?} is a backing file of another disk of this guest, so it cannot be written \
         (attach it with ',ro' or ',ephemeral')"
    )]
    UnderAnother { path: PathBuf },
    #[error("{} (give it once, or add ',ro' or ',ephemeral' to each)", same_file(.first, .second))]
    Twice { first: PathBuf, second: PathBuf },
    #[error(
        "disk images {first:?} and {second:?} are partitions of one loop device, of which guests write several or read \
         several, but not both at the same time (add ',ro' or ',ephemeral' to all of them or to none)"
    )]
    ReadBesideWritten { first: PathBuf, second: PathBuf },
    #[error(
        "disk image {path:?} is the file under {device:?}, which the host uses: it is mounted, swapped to, or a part of \
         a volume or an array (see of what: lsblk {}; unmount it, or attach the image with ',ro')",
        shell_word(.device)
    )]
    MountedByLoop { path: PathBuf, device: PathBuf },
    #[error(
        "block device {path:?} is in use by the host: mounted, swapped to, or a part of a volume or an array (see of \
         what: lsblk {}; unmount it, or attach it with ',ro')",
        shell_word(.path)
    )]
    Mounted { path: PathBuf },
    #[error("disk image {path:?} is {format} ({advice})")]
    Foreign {
        path: PathBuf,
        format: &'static str,
        advice: String,
    },
    #[error("disk image {path:?} is empty (give it a size: {make})")]
    Empty { path: PathBuf, make: String },
    #[error("disk {path:?} has no bytes: none of its files was handed over, or all of them are empty")]
    NothingHandedOver { path: PathBuf },
    #[error("disk {path:?} is made of {count} files, so it can only be read")]
    Joined { path: PathBuf, count: usize },
    #[error("the files of disk {path:?} are larger than a disk can be")]
    TooLarge { path: PathBuf },
    #[error(
        "disk image {path:?} has {size} bytes, no multiple of the sector size {SECTOR_SIZE} \
         (is it a raw image? round its size up: truncate -s %{SECTOR_SIZE} {})",
        shell_word(.path)
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
        "cannot make a temporary file in {directory:?} for what is written to disk image {path:?}: {source} \
         ({advice})"
    )]
    Temporary {
        directory: PathBuf,
        path: PathBuf,
        source: io::Error,
        advice: &'static str,
    },
    #[error("disk id {id:?} is not 1 to 20 printable ASCII characters (choose a shorter, plainer one)")]
    Id { id: String },
}

impl OpenError {
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Words the complaint that two disks are one file.
fn same_file(first: &Path, second: &Path) -> String {
    match first == second {
        true => format!("disk image {first:?} is given twice, and a disk that is written cannot be shared"),
        false => {
            format!(
                "disk images {first:?} and {second:?} are the same file, or parts of it, and a disk that is written \
                 cannot be shared"
            )
        }
    }
}

/// What to do when a file cannot be opened.
pub fn advice(error: &io::Error, read_only: bool) -> &'static str {
    limit_advice(error).unwrap_or(match error.kind() {
        io::ErrorKind::PermissionDenied if read_only => "check its permissions with ls -l",
        io::ErrorKind::PermissionDenied => {
            "check its permissions with ls -l, or attach it read-only: add ,ro"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::ExecutableFileBusy => {
            "attach it read-only: add ,ro"
        }
        _ => "check the path and the file",
    })
}

/// What to do when no more files can be opened, because a limit on their number is reached.
pub fn limit_advice(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE => {
            Some("a process may have only so many files open: raise the limit, for example ulimit -n 4096")
        }
        libc::ENFILE => Some("the host has too many files open: raise its limit with sysctl fs.file-max"),
        _ => None,
    }
}
