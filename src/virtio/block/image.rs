//! A raw image file or a block device of the host, as a disk's backend.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::VolatileSlice;

/// What sectors count in, whatever the block size (virtio 1.2 section 5.2).
pub const SECTOR_SIZE: u64 = 512;

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
        "disk image {path:?} is in use by another disk or another guest (wait for it to end, or attach the image \
         with ',ro' everywhere)"
    )]
    InUse { path: PathBuf },
    #[error("disk image {path:?} is empty (give it a size: truncate -s 1G {path:?})")]
    Empty { path: PathBuf },
    #[error(
        "disk image {path:?} has {size} bytes, no multiple of the sector size {SECTOR_SIZE} \
         (is it a raw image? round its size up: truncate -s %{SECTOR_SIZE} {path:?})"
    )]
    PartialSector { path: PathBuf, size: u64 },
    #[error("disk id {id:?} is not 1 to 20 printable ASCII characters (choose a shorter, plainer one)")]
    Id { id: String },
}

impl OpenError {
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// An open and locked image of a whole number of sectors: shared by readers, or one writer's.
/// Its size is what it was when it was opened.
pub struct Image {
    path: PathBuf,
    file: File,
    /// In bytes.
    size: u64,
    read_only: bool,
    /// A flush failed. The host may have dropped the data and would call the next flush a success, so none
    /// succeeds any more.
    lost_data: AtomicBool,
}

impl Image {
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => OpenError::Missing { path: path.into() },
            kind => OpenError::Open {
                path: path.into(),
                source,
                advice: advice(kind, read_only),
            },
        };
        // Before it is opened, which would wait for ever on a FIFO and set some devices off.
        check_kind(path, &path.metadata().map_err(failed)?)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(failed)?;
        let locked = match read_only {
            true => file.try_lock_shared(),
            false => file.try_lock(),
        };
        match locked {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.into() }),
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) => log::warn!("cannot lock disk image {path:?}: {error}"),
        }
        // A block device has no size in its metadata; both have an end.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size == 0 {
            return Err(OpenError::Empty { path: path.into() });
        }
        if !size.is_multiple_of(SECTOR_SIZE) {
            return Err(OpenError::PartialSector {
                path: path.into(),
                size,
            });
        }
        Ok(Self {
            path: path.into(),
            file,
            size,
            read_only,
            lost_data: AtomicBool::new(false),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn read_only(&self) -> bool {
        self.read_only
    }

    pub fn sectors(&self) -> u64 {
        self.size / SECTOR_SIZE
    }

    /// The offset of `sector`, if `length` bytes from there are whole sectors inside the image.
    pub fn locate(&self, sector: u64, length: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR_SIZE)?;
        let end = offset.checked_add(length)?;
        (length.is_multiple_of(SECTOR_SIZE) && end <= self.size).then_some(offset)
    }

    /// Fills `buffers` from `offset` on.
    pub fn read(&self, buffers: &[VolatileSlice], offset: u64) -> io::Result<()> {
        transfer(buffers, offset, io::ErrorKind::UnexpectedEof, |iovecs, offset| {
            // SAFETY: `transfer` passes iovecs of live guest memory, which any writer may change at any time.
            unsafe {
                libc::preadv(
                    self.file.as_raw_fd(),
                    iovecs.as_ptr(),
                    iovecs.len() as i32,
                    offset,
                )
            }
        })
    }

    /// Writes all of `buffers` from `offset` on.
    pub fn write(&self, buffers: &[VolatileSlice], offset: u64) -> io::Result<()> {
        transfer(buffers, offset, io::ErrorKind::WriteZero, |iovecs, offset| {
            // SAFETY: `transfer` passes iovecs of live guest memory, which the kernel only reads.
            unsafe {
                libc::pwritev(
                    self.file.as_raw_fd(),
                    iovecs.as_ptr(),
                    iovecs.len() as i32,
                    offset,
                )
            }
        })
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> io::Result<()> {
        if self.lost_data.load(Ordering::Relaxed) {
            return Err(io::Error::other(
                "an earlier flush failed, so written data may be lost",
            ));
        }
        self.file
            .sync_data()
            .inspect_err(|_| self.lost_data.store(true, Ordering::Relaxed))
    }
}

/// Moves all of `buffers` with a vectored system call, as often as it takes.
fn transfer(
    buffers: &[VolatileSlice],
    offset: u64,
    at_end: io::ErrorKind,
    call: impl Fn(&[libc::iovec], i64) -> isize,
) -> io::Result<()> {
    let mut offset = i64::try_from(offset).map_err(io::Error::other)?;
    let mut iovecs: Vec<libc::iovec> = buffers
        .iter()
        .map(|buffer| libc::iovec {
            iov_base: buffer.ptr_guard_mut().as_ptr().cast(),
            iov_len: buffer.len(),
        })
        .collect();
    let mut left = iovecs.as_mut_slice();
    while !left.is_empty() {
        let batch = left.len().min(libc::UIO_MAXIOV as usize);
        match call(&left[..batch], offset) {
            0 => return Err(at_end.into()),
            moved if moved > 0 => {
                offset += moved as i64;
                left = advance(left, moved as usize);
            }
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// What is left of `iovecs` after their first `moved` bytes.
fn advance(iovecs: &mut [libc::iovec], mut moved: usize) -> &mut [libc::iovec] {
    let mut whole = 0;
    for iovec in iovecs.iter() {
        if moved < iovec.iov_len {
            break;
        }
        moved -= iovec.iov_len;
        whole += 1;
    }
    let left = &mut iovecs[whole..];
    if let Some(first) = left.first_mut() {
        first.iov_base = first.iov_base.wrapping_byte_add(moved);
        first.iov_len -= moved;
    }
    left
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
    let kind = metadata.file_type();
    let found = match () {
        _ if kind.is_file() || kind.is_block_device() => return Ok(()),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a character device",
    };
    Err(OpenError::NotAnImage {
        path: path.into(),
        found,
    })
}

fn advice(kind: io::ErrorKind, read_only: bool) -> &'static str {
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

#[cfg(test)]
#[path = "image_test.rs"]
mod tests;
