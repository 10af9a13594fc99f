//! A file of the host as the library's storage.
//!
//! The library reads and writes tables here, and clusters that it copies. The data that a guest reads and writes goes to the
//! same file without the library, or to a data file. In a file with tables both kinds of writes pass the barrier, so that
//! neither overwrites the other.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;

use super::barrier::Barrier;
use super::buffers::Cursor;
use super::header::{AUTOCLEAR, Header, RAW_DATA_FILE};
use super::metadata::Metadata;
use super::order::Order;
use super::read::read_or_zeroes;
use crate::virtio::block::image::lock::Locked;

/// The page cache of every Linux has pages of this size. Direct access to a part of a page would race with metadata in the same
/// page.
const PAGE_BITS: u32 = 12;

#[derive(Debug)]
pub struct HostFile {
    path: PathBuf,
    /// The file, with access through the page cache.
    file: Locked,
    /// The same file with direct access, for the guest's data. The kernel keeps both consistent.
    direct: Option<File>,
    /// Its size in bytes when it was opened.
    size: u64,
    /// Its size in bytes now, as far as this process has changed it.
    end: AtomicU64,
    role: Role,
    /// None if the file is not a qcow2 file that is written.
    written: Option<Written>,
    freed_clusters: AtomicBool,
    blockers: CommonStorageHelper,
}

/// Where in the file a guest's data can be.
#[derive(Debug)]
enum Role {
    /// A raw image, in which all bytes are data.
    Raw,
    /// A qcow2 file with clusters of this size. Data is in any cluster that has no metadata.
    Image { cluster_bits: u32 },
    /// The data file of a qcow2 image: each byte of the disk has the same offset here.
    Data {
        cluster_bits: u32,
        /// The clusters that the guest writes just now. The library writes what it copies there, and nowhere else.
        written_now: Mutex<Range<u64>>,
    },
}

/// What keeps a qcow2 file consistent while it is written.
#[derive(Debug)]
struct Written {
    order: Order,
    barrier: Barrier,
    /// Whether the header says that the data file is a raw image, which stays true.
    has_raw_data_file: bool,
}

impl HostFile {
    pub fn new(path: PathBuf, file: impl Into<Locked>) -> io::Result<Self> {
        let file = file.into();
        // The metadata of a block device has no size, so the size is where the end is.
        let size = (&*file).seek(SeekFrom::End(0))?;
        Ok(Self {
            path,
            file,
            direct: None,
            size,
            end: AtomicU64::new(size),
            role: Role::Raw,
            written: None,
            freed_clusters: AtomicBool::new(false),
            blockers: CommonStorageHelper::default(),
        })
    }

    /// Tells that the file is a qcow2 image with this header.
    pub fn holding(mut self, header: &Header) -> Self {
        self.role = Role::Image {
            cluster_bits: header.cluster_bits,
        };
        self
    }

    /// Tells that the file has the data of the image with this header.
    pub fn with_data_of(mut self, header: &Header) -> Self {
        self.role = Role::Data {
            cluster_bits: header.cluster_bits,
            written_now: Mutex::default(),
        };
        self
    }

    /// Makes sure that an image that is written is consistent at any moment, because this process may be killed at any moment;
    /// and also if its tables are hostile.
    pub fn kept_whole(mut self, header: &Header, metadata: Metadata) -> Self {
        self.written = Some(Written {
            order: Order::new(header),
            barrier: Barrier::new(header, metadata),
            has_raw_data_file: header.data_file.as_ref().is_some_and(|data| data.is_raw),
        });
        self
    }

    /// Switches to direct access for the guest's data, if the file system can do that.
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

    pub fn path(&self) -> &Path {
        &self.path
    }

    #[cfg(test)]
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// The length of the file when it was opened.
    pub fn length(&self) -> u64 {
        self.size
    }

    /// Whether clusters became free since the last call of this function.
    pub fn take_freed_clusters(&self) -> bool {
        self.freed_clusters.swap(false, Ordering::Relaxed)
    }

    /// Writes the entries of tables that were still kept back (`order`).
    pub fn release(&self) -> io::Result<()> {
        self.written
            .as_ref()
            .map_or(Ok(()), |written| written.order.release_all(&self.file))
    }

    /// Fails if the library must not change the image any more.
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

    /// Fails if the data of the disk at `disk_offset` cannot be in the range, because there is a table or the header, because the
    /// range begins behind the end of the file, or because it is another place of a data file.
    pub fn check_data(&self, offset: u64, length: u64, disk_offset: u64) -> io::Result<()> {
        self.check_place(offset, length, disk_offset)?;
        self.write_data(offset, length, || Ok(()))
    }

    /// Fails if new data of the disk at `disk_offset` cannot get its place at `offset`. An image's file may end there.
    pub fn check_new(&self, offset: u64, disk_offset: u64) -> io::Result<()> {
        match self.role {
            Role::Data { .. } if offset != disk_offset => Err(elsewhere()),
            _ => Ok(()),
        }
    }

    fn check_place(&self, offset: u64, length: u64, disk_offset: u64) -> io::Result<()> {
        match self.role {
            Role::Raw => Ok(()),
            Role::Image { cluster_bits } => {
                let last = offset.saturating_add(length.max(1) - 1) >> cluster_bits;
                if offset >> cluster_bits == 0 || last << cluster_bits >= self.end.load(Ordering::Relaxed) {
                    return Err(io::Error::other(
                        "the image is damaged: its tables say that this data lies in the header or behind the end of \
                         the file (repair it: qemu-img check -r all IMAGE)",
                    ));
                }
                Ok(())
            }
            Role::Data { .. } => self.check_new(offset, disk_offset),
        }
    }

    /// To be called before the library prepares clusters for data of the disk from `start` to `end`.
    pub fn expect_copies(&self, start: u64, end: u64) {
        if let Role::Data {
            cluster_bits,
            written_now,
        } = &self.role
        {
            let cluster = 1 << cluster_bits;
            let start = start - start % cluster;
            *written_now.lock().unwrap_or_else(PoisonError::into_inner) =
                start..end.next_multiple_of(cluster);
        }
    }

    /// Fails if tables that lie made the library copy to a cluster of a data file that the guest does not write.
    fn check_copy(&self, offset: u64, length: u64) -> io::Result<()> {
        let Role::Data { written_now, .. } = &self.role else {
            return Ok(());
        };
        let expected = written_now.lock().unwrap_or_else(PoisonError::into_inner);
        match expected.start <= offset && offset.saturating_add(length) <= expected.end {
            true => Ok(()),
            false => Err(elsewhere()),
        }
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

    /// Fills the next `length` bytes of `buffers` with the data of the disk at `disk_offset`. The last cluster of a file can be
    /// cut short; its rest reads as zeroes.
    pub fn read_into(
        &self,
        buffers: &mut Cursor,
        length: u64,
        offset: u64,
        disk_offset: u64,
    ) -> io::Result<()> {
        self.check_place(offset, length, disk_offset)?;
        fill(buffers, length, |buffers, left| {
            self.read_some(buffers, left, offset + (length - left))
        })
    }

    fn read_some(&self, buffers: &Cursor, length: u64, offset: u64) -> io::Result<u64> {
        if let Some(direct) = &self.direct {
            match buffers.preadv(direct, length, offset) {
                // The alignment that suffices for the guest may not suffice for the host's device, and a file may end anywhere.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Ok(0) => {}
                done => return done,
            }
        }
        buffers.preadv(&self.file, length, offset)
    }

    /// Writes the next `length` bytes of `buffers`, unless there is a table.
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

    /// Frees the host's space of a range, if the host can do that. The range then reads as zeroes. Fails if there is a table.
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

    /// Writes what the library writes: tables, and clusters that it copies or zeroes.
    fn write_tables(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_copy(offset, bytes.len() as u64)?;
        match &self.written {
            Some(written) => {
                let Written { order, barrier, .. } = written;
                let bytes = &*written.with_marks(bytes, offset);
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

impl Written {
    /// What is to be written at `offset` in place of `bytes`. The library clears all autoclear features in the header. The one
    /// that says that the data file is a raw image stays, because Coracle keeps it true.
    fn with_marks<'b>(&self, bytes: &'b [u8], offset: u64) -> Cow<'b, [u8]> {
        let mut bytes = Cow::from(bytes);
        if self.has_raw_data_file && offset == 0 && bytes.len() >= AUTOCLEAR.end {
            bytes.to_mut()[AUTOCLEAR].copy_from_slice(&RAW_DATA_FILE.to_be_bytes());
        }
        bytes
    }
}

fn elsewhere() -> io::Error {
    io::Error::other(
        "the image is damaged: its tables say that this data lies at another place of the data file (see where: \
         qemu-img map IMAGE)",
    )
}

/// Calls `read` with the rest of `length` until nothing is left. If it reads nothing, because the file ends, the rest is filled
/// with zeroes.
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
        self.check_copy(offset, length)?;
        self.punch_hole(offset, length).map_err(|error| {
            // After this error the library writes zeroes itself.
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

    /// Called before the library frees clusters.
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
