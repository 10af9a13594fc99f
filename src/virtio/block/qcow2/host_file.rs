//! A file of the host as the library's storage.
//!
//! The library reads and writes tables here, and clusters that it copies. What a guest reads and writes goes to the same
//! file past the library. Both kinds of writes go through the barrier, so that neither lands on the other.

use std::fmt::{self, Display};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;

use super::barrier::Barrier;
use super::buffers::Cursor;
use super::header::Header;
use super::metadata::Metadata;
use super::order::{Order, read_or_zeroes};
use crate::virtio::block::image::lock::Locked;

/// What the page cache of every Linux works in. Direct access to parts of it would race with metadata beside.
const PAGE_BITS: u32 = 12;

#[derive(Debug)]
pub struct HostFile {
    path: PathBuf,
    /// Through the page cache.
    file: Locked,
    /// Past it, for the guest's data. The kernel keeps the two at one.
    direct: Option<File>,
    /// When it was opened, in bytes.
    size: u64,
    /// Where it ends now, in bytes, unless somebody else changes it.
    end: AtomicU64,
    /// Of a qcow2 file. All bytes of a raw file are data.
    cluster_bits: Option<u32>,
    /// Of a qcow2 file that is written.
    written: Option<Written>,
    freed_clusters: AtomicBool,
    blockers: CommonStorageHelper,
}

/// What keeps a file whole while it is written.
#[derive(Debug)]
struct Written {
    order: Order,
    barrier: Barrier,
}

impl HostFile {
    pub fn new(path: PathBuf, file: impl Into<Locked>) -> io::Result<Self> {
        let file = file.into();
        // A block device has no size in its metadata; both have an end.
        let size = (&*file).seek(SeekFrom::End(0))?;
        Ok(Self {
            path,
            file,
            direct: None,
            size,
            end: AtomicU64::new(size),
            cluster_bits: None,
            written: None,
            freed_clusters: AtomicBool::new(false),
            blockers: CommonStorageHelper::default(),
        })
    }

    /// The file is a qcow2 image with this header.
    pub fn holding(mut self, header: &Header) -> Self {
        self.cluster_bits = Some(header.cluster_bits);
        self
    }

    /// Keeps an image that is written whole: at any moment, since this process may end at any moment, and whatever its
    /// tables say.
    pub fn kept_whole(mut self, header: &Header, metadata: Metadata) -> Self {
        self.written = Some(Written {
            order: Order::new(header),
            barrier: Barrier::new(header, metadata),
        });
        self
    }

    /// Reads and writes guest data past the page cache, if the file system can.
    pub fn directly(mut self, read_only: bool, cluster_bits: u32) -> io::Result<Self> {
        if cluster_bits < PAGE_BITS {
            log::warn!(
                "disk image {:?} has clusters smaller than a page, so it is not accessed directly",
                self.path
            );
            return Ok(self);
        }
        let again = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(libc::O_DIRECT)
            .open(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        match again {
            Ok(direct) => self.direct = Some(direct),
            Err(error) => log::warn!("cannot access disk image {:?} directly: {error}", self.path),
        }
        Ok(self)
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its length when it was opened.
    pub fn length(&self) -> u64 {
        self.size
    }

    /// Whether clusters became free since the last time that this was asked.
    pub fn take_freed_clusters(&self) -> bool {
        self.freed_clusters.swap(false, Ordering::Relaxed)
    }

    /// Writes what still waits for its turn.
    pub fn release(&self) -> io::Result<()> {
        self.written
            .as_ref()
            .map_or(Ok(()), |written| written.order.release_all(&self.file))
    }

    /// Fails when the library must not change the image any more.
    pub fn check(&self) -> io::Result<()> {
        self.written
            .as_ref()
            .map_or(Ok(()), |written| written.barrier.check())
    }

    /// To be called when the library has returned from a call that may allocate clusters.
    pub fn forget_claims(&self) {
        if let Some(written) = &self.written {
            written.barrier.forget_claims();
        }
    }

    /// Fails when the range cannot hold data: a table is there, or it lies in the header, or begins behind the end.
    pub fn check_data(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_bounds(offset, length)?;
        self.write_data(offset, length, || Ok(()))
    }

    fn check_bounds(&self, offset: u64, length: u64) -> io::Result<()> {
        let Some(cluster_bits) = self.cluster_bits else {
            return Ok(());
        };
        let last = offset.saturating_add(length.max(1) - 1) >> cluster_bits;
        if offset >> cluster_bits == 0 || last << cluster_bits >= self.end.load(Ordering::Relaxed) {
            return Err(io::Error::other(
                "the image is damaged: its tables say that this data lies in the header or behind the end of the file \
                 (repair it: qemu-img check -r all IMAGE)",
            ));
        }
        Ok(())
    }

    fn write_data<T>(
        &self,
        offset: u64,
        length: u64,
        write: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match &self.written {
            Some(written) => written.barrier.write_data(offset, length, write),
            None => write(),
        }
    }

    /// Fills the next `length` bytes of `buffers`. A last cluster may be cut short: then come zeroes.
    pub fn read_into(&self, buffers: &mut Cursor, length: u64, offset: u64) -> io::Result<()> {
        self.check_bounds(offset, length)?;
        fill(buffers, length, |buffers, left| {
            self.read_some(buffers, left, offset + (length - left))
        })
    }

    fn read_some(&self, buffers: &Cursor, length: u64, offset: u64) -> io::Result<u64> {
        if let Some(direct) = &self.direct {
            match buffers.preadv(direct, length, offset) {
                // What is aligned for a guest may not be for the host's device, and a file may end anywhere.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Ok(0) => {}
                done => return done,
            }
        }
        buffers.preadv(&self.file, length, offset)
    }

    /// Writes the next `length` bytes of `buffers`, unless a table is there.
    pub fn write_from(&self, buffers: &mut Cursor, length: u64, offset: u64) -> io::Result<()> {
        self.write_data(offset, length, || self.write_all_from(buffers, length, offset))
    }

    fn write_all_from(&self, buffers: &mut Cursor, length: u64, offset: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let position = offset + (length - left);
            let direct = match &self.direct {
                Some(direct) => buffers.pwritev(direct, left, position),
                None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            };
            let moved = match direct {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    buffers.pwritev(&self.file, left, position)?
                }
                done => done?,
            };
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.end.fetch_max(position + moved, Ordering::Relaxed);
            buffers.advance(moved);
            left -= moved;
        }
        Ok(())
    }

    /// Gives the host back what a range takes up, where the host can; it reads as zeroes then. Fails when a table is
    /// there.
    pub fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_data(offset, length, || self.punch(offset, length))
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        loop {
            // SAFETY: the descriptor is open, and no memory is passed on.
            match unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, length) } {
                0 => return Ok(()),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }

    fn write_tables(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &self.written {
            Some(Written { order, barrier }) => {
                barrier.before_write(&self.file, bytes, offset)?;
                order
                    .write(&self.file, bytes, offset)
                    .inspect_err(|_| barrier.failed(offset))?;
            }
            None => self.file.write_all_at(bytes, offset)?,
        }
        self.end.fetch_max(offset + bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Calls `read` with what is left of `length` until nothing is, or until it reads nothing: then come zeroes.
fn fill(buffers: &mut Cursor, length: u64, read: impl Fn(&Cursor, u64) -> io::Result<u64>) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let moved = read(buffers, left)?;
        if moved == 0 {
            buffers.fill_with_zeroes(left);
            break;
        }
        buffers.advance(moved);
        left -= moved;
    }
    Ok(())
}

impl Display for HostFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.path)
    }
}

impl Storage for HostFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    unsafe fn pure_readv(&self, buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut offset = offset;
        for mut buffer in buffers.into_inner() {
            read_or_zeroes(&self.file, &mut buffer, offset)?;
            if let Some(written) = &self.written {
                let end = self.end.load(Ordering::Relaxed);
                written.barrier.check_read(&buffer, offset, end)?;
            }
            offset += buffer.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        let mut offset = offset;
        for buffer in buffers.into_inner() {
            self.write_tables(&buffer, offset)?;
            offset += buffer.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.punch_hole(offset, length).map_err(|error| {
            // The library writes zeroes then.
            match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL) => {
                    io::ErrorKind::Unsupported.into()
                }
                _ => error,
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The library is about to free clusters.
    fn settle_writes(&self) -> io::Result<()> {
        self.freed_clusters.store(true, Ordering::Relaxed);
        Ok(())
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.blockers
    }
}
