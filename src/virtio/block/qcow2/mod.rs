//! qcow2 images, through the `imago` library.
//!
//! The library finds out where data is, and keeps the tables. The data itself is moved between guest and file without the
//! library, which would need a reference to guest memory. `header` and `metadata` refuse files that the library must not see,
//! `barrier` prevents that a guest's data overwrites a table, and `order` writes the tables in an order that leaves the file
//! consistent if the process is killed.

use std::fs::File;
use std::io;
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, ShallowMapping, Storage};

use super::image::lock::Locked;
use crate::config::{Cache, Disk};
use backing::Chain;
use buffers::Cursor;
pub use error::Error;
use header::Header;
pub use header::MAGIC;
use host_file::HostFile;
use metadata::Metadata;

mod backing;
mod barrier;
mod budget;
mod buffers;
mod clusters;
mod data_file;
mod error;
mod header;
mod host_file;
mod metadata;
mod order;
mod permit;
mod refcounts;

/// How many bytes are unpacked or zeroed at a time.
const PIECE: u64 = 1 << 20;

/// An image that several threads may use at a time.
pub struct Qcow2 {
    image: FormatAccess<HostFile>,
    files: Vec<PathBuf>,
    read_only: bool,
    /// Whether the data of the disk is in a file of its own.
    has_data_file: bool,
    /// Whether that file is also a raw image of the disk. Then a change of tables alone must not change what the disk has.
    has_raw_data_file: bool,
    /// Whether the tables can say that a cluster is zero. Those of version 2 cannot.
    has_zero_clusters: bool,
    has_backing: bool,
    cluster_size: u64,
    /// Held while a table is changed. When the library has freed a cluster, no other thread may use that cluster for another
    /// table before the library was flushed.
    changes: Mutex<()>,
    /// Locked for reading by the user of a cluster that is not new, and for writing while clusters are freed.
    clusters: RwLock<()>,
    /// Whether a flush failed. The host may have dropped the data, and would report the next flush as a success all the same,
    /// so every later flush fails here.
    lost_data: AtomicBool,
}

impl Qcow2 {
    /// Opens the image in `file`, which is the file of `disk`: locked, without O_DIRECT, and open for writing unless the disk is
    /// only read.
    pub fn open(file: impl Into<Locked>, disk: &Disk) -> Result<Self, Error> {
        let file = file.into();
        let path = disk.file.as_path();
        let read_only = disk.is_only_read();
        let failed = |source| Error::io(path, source);
        let mut chain = Chain::new(path, &file, &disk.backing)?;
        let mut file = HostFile::new(path.into(), file).map_err(failed)?;
        let header =
            Header::read(file.file(), file.length()).map_err(|source| Error::header(path, source))?;
        chain.take_memory(&header, !read_only)?;
        file = file.holding(&header);
        if !read_only {
            let metadata = Metadata::read(file.file(), &header, file.length())
                .map_err(|source| Error::header(path, source))?;
            file = file.kept_whole(&header, metadata);
        }
        let data_file = data_file::open(file.file(), &header, disk)?;
        if let Some(data_file) = &data_file {
            chain.take_data_file(data_file)?;
        } else if disk.cache == Cache::Direct {
            file = file.directly(read_only, header.cluster_bits).map_err(failed)?;
        }
        let backing = chain.open_backing(&header)?;
        let has_backing = backing.is_some();
        let image = imago::qcow2::Qcow2::builder(file)
            .write(!read_only)
            .backing(backing)
            .data_file(data_file)
            .open(DenyImplicitOpenGate::default())
            .map_err(failed)?;
        Ok(Self {
            image: FormatAccess::new(image),
            files: chain.into_files(),
            read_only,
            has_data_file: header.data_file.is_some(),
            has_raw_data_file: header.data_file.is_some_and(|data_file| data_file.is_raw),
            has_zero_clusters: header.version >= 3,
            has_backing,
            cluster_size: 1 << header.cluster_bits,
            changes: Mutex::default(),
            clusters: RwLock::default(),
            lost_data: AtomicBool::new(false),
        })
    }

    /// The backing file that the header of `file` names, and the data file, as text for a person. The file has `length`
    /// bytes, and `disk` names it. No other file is opened.
    pub fn look(file: &File, length: u64, disk: &Disk) -> Result<(Option<String>, Option<String>), Error> {
        let path = disk.file.as_path();
        let header = Header::read(file, length).map_err(|source| Error::header(path, source))?;
        let data = data_file::describe(file, &header, disk)?;
        let backing = header
            .backing
            .map(|backing| permit::describe(&disk.backing, path, &backing.name));
        Ok((backing, data))
    }

    /// The clusters of tables, in a file that could be opened for writing, that have `bytes` in them.
    #[cfg(fuzzing)]
    pub fn tables_with(path: &std::path::Path, bytes: &[u8]) -> Vec<u64> {
        let file = File::open(path).expect("the file is there");
        let length = file.metadata().expect("it is a file").len();
        let header = Header::read(&file, length).expect("its header was read before");
        let metadata = Metadata::read(&file, &header, length).expect("its tables are whole");
        let mut cluster = vec![0; 1 << header.cluster_bits];
        let clusters = metadata.clusters().filter(|number| {
            cluster.fill(0);
            order::read_or_zeroes(&file, &mut cluster, number << header.cluster_bits)
                .expect("the file is read");
            cluster.windows(bytes.len()).any(|window| window == bytes)
        });
        clusters.collect()
    }

    /// How many bytes a discard or a write of zeroes may have, so that its number of clusters is limited.
    pub fn range_max(&self) -> u64 {
        budget::CLUSTERS_IN_REQUEST * self.cluster_size
    }

    /// The size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.image.size()
    }

    /// Whether the header of the image at `path` says that the data file is a raw image.
    #[cfg(test)]
    pub fn has_raw_data_file(path: &Path) -> bool {
        let file = File::open(path).unwrap();
        let header = Header::read(&file, file.metadata().unwrap().len()).unwrap();
        header.data_file.is_some_and(|data_file| data_file.is_raw)
    }

    /// The image, its backing file, that one's, and so on.
    #[cfg(test)]
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// Fills `buffers` from `offset` on.
    ///
    /// # Safety
    /// Every buffer is memory that stays mapped and may be written until this returns. Others may read and write it
    /// meanwhile.
    pub unsafe fn read(&self, buffers: &[libc::iovec], offset: u64) -> io::Result<()> {
        // SAFETY: passed on to the caller.
        let mut buffers = unsafe { Cursor::new(buffers) };
        let mut range = self.range(offset, buffers.left())?;
        let _shared = self.use_clusters();
        while !range.is_empty() {
            let (mapping, length) = self.image.get_mapping(range.start, range.length())?;
            let length = match mapping {
                Mapping::Raw { storage, offset, .. } => {
                    storage.read_into(&mut buffers, length, offset, range.start)?;
                    length
                }
                Mapping::Zero { .. } => {
                    buffers.fill_with_zeroes(length);
                    length
                }
                Mapping::Special { layer, offset, .. } => {
                    let mut unpacked = vec![0; length.min(PIECE) as usize];
                    layer.read(&mut unpacked, offset)?;
                    buffers.put(&unpacked);
                    unpacked.len() as u64
                }
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            range.advance(length)?;
        }
        Ok(())
    }

    /// Writes all of `buffers` from `offset` on.
    ///
    /// # Safety
    /// Every buffer is memory that stays mapped until this returns. Others may read and write it meanwhile.
    pub unsafe fn write(&self, buffers: &[libc::iovec], offset: u64) -> io::Result<()> {
        // SAFETY: passed on to the caller.
        let mut buffers = unsafe { Cursor::new(buffers) };
        let mut range = self.writable_range(offset, buffers.left())?;
        while !range.is_empty() {
            let written = match self.write_in_place(&mut buffers, &range)? {
                0 => self.write_to_new_clusters(&mut buffers, &range)?,
                written => written,
            };
            range.advance(written)?;
        }
        Ok(())
    }

    /// Writes to clusters that exist already and belong to this image alone. Returns how many bytes were written: 0 if the first
    /// cluster is not such a one.
    fn write_in_place(&self, buffers: &mut Cursor, range: &Range) -> io::Result<u64> {
        let _shared = self.use_clusters();
        let (mapping, length) = self.image.get_shallow_mapping(range.start, range.length())?;
        let ShallowMapping::Raw {
            storage,
            offset,
            writable,
            ..
        } = mapping
        else {
            return Ok(0);
        };
        storage.check_data(offset, length, range.start)?;
        if !writable {
            return Ok(0);
        }
        storage.write_from(buffers, length, offset)?;
        Ok(length)
    }

    /// Writes to new clusters, which become part of the image after the data was written. Returns how many bytes were written,
    /// at least one.
    fn write_to_new_clusters(&self, buffers: &mut Cursor, range: &Range) -> io::Result<u64> {
        let _changes = self.change_tables()?;
        if let Some(data_file) = self.data_file() {
            data_file.expect_copies(range.start, range.end);
        }
        let mapping = self
            .image
            .prepare_data_mapping(range.start, range.length(), true)?;
        let length = mapping.length();
        self.storage()?.forget_claims();
        mapping.storage().check_new(mapping.offset(), range.start)?;
        mapping.storage().write_from(buffers, length, mapping.offset())?;
        self.image.commit_data_mapping(mapping)?;
        self.settle_freed_clusters()?;
        Ok(length)
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        if self.lost_data.load(Ordering::Relaxed) {
            return Err(io::Error::other(
                "an earlier flush failed, so written data may be lost",
            ));
        }
        self.write_durable_tables()
    }

    /// Makes the data in a data file durable, then the tables that say where it is.
    fn write_durable_tables(&self) -> io::Result<()> {
        {
            // As long as no table changes, all that the tables name is in the data file.
            let _changes = self.change_tables()?;
            if let Some(data_file) = self.data_file() {
                self.sync(data_file)?;
            }
            self.write_tables()?;
        }
        self.sync(self.storage()?)
    }

    fn sync(&self, file: &HostFile) -> io::Result<()> {
        file.sync()
            .inspect_err(|_| self.lost_data.store(true, Ordering::Relaxed))
    }

    /// Frees the host's space of the whole clusters in a range. What is read from the range afterwards is unspecified.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let range = self.writable_range(offset, length)?;
        if self.has_raw_data_file {
            return self.discard_in_place(range);
        }
        // If the tables cannot say that a cluster is zero, a freed cluster would read as that of the backing file.
        match self.has_zero_clusters || !self.has_backing {
            true => self.free(self.whole_clusters(&range), false),
            false => Ok(()),
        }
    }

    /// Zeroes a range. Unless `may_unmap`, the host's space for it stays reserved.
    pub fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        let range = self.writable_range(offset, length)?;
        if self.has_raw_data_file {
            return self.zero_in_place(range, may_unmap);
        }
        let whole = match self.has_zero_clusters {
            true => self.whole_clusters(&range),
            false => Range::new(range.end, 0),
        };
        self.write_plain_zeroes(Range {
            start: range.start,
            end: whole.start.min(range.end),
        })?;
        self.write_plain_zeroes(Range {
            start: whole.end.max(range.start),
            end: range.end,
        })?;
        match may_unmap {
            true => self.free(whole, true),
            false => self.zero(whole),
        }
    }

    /// Writes zeroes like other data, except where the image already reads as zeroes.
    fn write_plain_zeroes(&self, mut range: Range) -> io::Result<()> {
        let zeroes = vec![0_u8; range.length().min(PIECE) as usize];
        while !range.is_empty() {
            let (is_zero, length) = self.reads_as_zero(&range)?;
            let length = length.min(PIECE);
            if !is_zero {
                let buffer = libc::iovec {
                    iov_base: zeroes.as_ptr().cast_mut().cast(),
                    iov_len: length as usize,
                };
                // SAFETY: the buffer is a part of `zeroes`, which is only read.
                unsafe { self.write(&[buffer], range.start)? };
            }
            range.advance(length)?;
        }
        Ok(())
    }

    /// Frees the host's space of a range, without a change of tables.
    fn discard_in_place(&self, mut range: Range) -> io::Result<()> {
        while !range.is_empty() {
            let (_, length) = self.punch_in_place(&range)?;
            range.advance(length)?;
        }
        Ok(())
    }

    /// Zeroes a range also for those who read the data file without the tables.
    fn zero_in_place(&self, mut range: Range, may_unmap: bool) -> io::Result<()> {
        while !range.is_empty() {
            let (is_zero, length) = match may_unmap {
                true => self.punch_in_place(&range)?,
                false => (false, range.length()),
            };
            if !is_zero {
                self.write_plain_zeroes(Range::new(range.start, length))?;
            }
            range.advance(length)?;
        }
        Ok(())
    }

    /// Frees the host's space of data at the beginning of `range`. Returns for how many bytes the answer holds, and whether they
    /// are zeroes now.
    fn punch_in_place(&self, range: &Range) -> io::Result<(bool, u64)> {
        let _shared = self.use_clusters();
        let (mapping, length) = self.image.get_shallow_mapping(range.start, range.length())?;
        let ShallowMapping::Raw {
            storage,
            offset,
            writable: true,
            ..
        } = mapping
        else {
            return Ok((false, length));
        };
        storage.check_data(offset, length, range.start)?;
        Ok((storage.punch_hole(offset, length).is_ok(), length))
    }

    /// Makes whole clusters read as zeroes. They keep their place in the file.
    fn zero(&self, mut range: Range) -> io::Result<()> {
        while !range.is_empty() {
            let (is_zero, length) = self.reads_as_zero(&range)?;
            // A mapping may end in the middle of a cluster of this image: a backing file can have smaller clusters, and end
            // anywhere.
            let (is_zero, length) = match length - length % self.cluster_size {
                _ if length == range.length() => (is_zero, length),
                0 => (false, self.cluster_size.min(range.length())),
                whole => (is_zero, whole),
            };
            if !is_zero {
                let _changes = self.change_tables()?;
                self.image.write_zeroes(range.start, length)?;
                self.settle_freed_clusters()?;
            }
            range.advance(length)?;
        }
        Ok(())
    }

    /// Whether `range` begins with bytes that read as zeroes, and for how many bytes the answer is the same.
    fn reads_as_zero(&self, range: &Range) -> io::Result<(bool, u64)> {
        let _shared = self.use_clusters();
        let (mapping, length) = self.image.get_mapping(range.start, range.length())?;
        Ok((matches!(mapping, Mapping::Zero { .. }), length))
    }

    /// Takes whole clusters out of the image. With `hide_backing` they read as zeroes also where the backing file has data.
    fn free(&self, mut range: Range, hide_backing: bool) -> io::Result<()> {
        let _changes = self.change_tables()?;
        let mut holes = Vec::new();
        // How many bytes of the disk an L2 table maps, with entries of 8 bytes. Each round stays in one table, because the next
        // table may be new and in a cluster that this round frees.
        let table_span = self.cluster_size * (self.cluster_size / 8);
        while !range.is_empty() {
            if range.start.is_multiple_of(table_span) {
                self.settle_freed_clusters()?;
            }
            let (mapping, length) = self.image.get_shallow_mapping(range.start, range.length())?;
            let length = length.next_multiple_of(self.cluster_size).min(range.length());
            let is_there = match mapping {
                ShallowMapping::Zero { explicit, .. } => explicit,
                ShallowMapping::Indirect { .. } => hide_backing && !self.is_zero(&range, length)?,
                _ => true,
            };
            if let ShallowMapping::Raw {
                storage,
                offset,
                writable,
                ..
            } = mapping
            {
                storage.check_data(offset, length, range.start)?;
                if writable {
                    holes.push((storage, offset, length.next_multiple_of(self.cluster_size)));
                }
            }
            if is_there {
                let _alone: RwLockWriteGuard<()> =
                    self.clusters.write().unwrap_or_else(PoisonError::into_inner);
                // SAFETY: with `clusters` held alone nobody uses a mapping that this undoes.
                unsafe {
                    match self.has_zero_clusters {
                        true => self.image.discard_to_zero_unsafe(range.start, length)?,
                        false => self.image.discard_to_backing_unsafe(range.start, length)?,
                    }
                }
            }
            range.advance(length)?;
        }
        self.settle_freed_clusters()?;
        for (storage, offset, length) in holes {
            // The error is only logged: not every host can do this, and the cluster may be a table by now. The image can use the
            // clusters again in any case.
            if let Err(error) = storage.punch_hole(offset, length) {
                log::debug!("cannot give space of {storage} back: {error}");
            }
        }
        Ok(())
    }

    fn is_zero(&self, range: &Range, length: u64) -> io::Result<bool> {
        let mut rest = Range::new(range.start, length);
        while !rest.is_empty() {
            match self.reads_as_zero(&rest)? {
                (true, length) => rest.advance(length)?,
                (false, _) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes to the file which clusters were freed, before the library uses them again. To be called with `changes` held, after
    /// each call of the library that changes tables.
    fn settle_freed_clusters(&self) -> io::Result<()> {
        let storage = self.storage()?;
        storage.forget_claims();
        storage.check()?;
        match storage.take_freed_clusters() {
            true => self.image.flush(),
            false => Ok(()),
        }
    }

    /// Writes the changes of tables that the library and `order` have kept back. To be called with `changes` held.
    fn write_tables(&self) -> io::Result<()> {
        self.image.flush()?;
        self.storage()?.release()
    }

    /// The image's own file. In the library's list it is behind the files under it, and a data file is behind it.
    fn storage(&self) -> io::Result<&HostFile> {
        let files = self.image.inner().collect_storage_dependencies();
        (files.into_iter().rev())
            .nth(usize::from(self.has_data_file))
            .ok_or_else(|| io::Error::other("an image without a file"))
    }

    /// The file that has the data, if that is not the image's own file.
    fn data_file(&self) -> Option<&HostFile> {
        let last = self.image.inner().collect_storage_dependencies().pop();
        last.filter(|_| self.has_data_file)
    }

    fn change_tables(&self) -> io::Result<MutexGuard<'_, ()>> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        // There may be freed clusters of an earlier change that failed.
        self.settle_freed_clusters()?;
        Ok(changes)
    }

    fn use_clusters(&self) -> RwLockReadGuard<'_, ()> {
        self.clusters.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clusters that are wholly in a range. A last cluster that the end of the image cuts short counts as whole.
    fn whole_clusters(&self, range: &Range) -> Range {
        let start = range.start.next_multiple_of(self.cluster_size);
        let end = match range.end {
            end if end == self.size() => end,
            end => end - end % self.cluster_size,
        };
        Range {
            start,
            end: end.max(start),
        }
    }

    fn range(&self, offset: u64, length: u64) -> io::Result<Range> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size() => Ok(Range::new(offset, length)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn writable_range(&self, offset: u64, length: u64) -> io::Result<Range> {
        match self.read_only {
            true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            false => self.range(offset, length),
        }
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if self.read_only {
            return;
        }
        let written = self.change_tables().and_then(|_changes| self.write_tables());
        if let Err(error) = written {
            let path = self.files.first();
            log::error!("the last changes to disk image {path:?} may be lost: {error}");
        }
    }
}

/// A range of the disk's bytes. It does not reach past the end of the disk.
struct Range {
    start: u64,
    end: u64,
}

impl Range {
    fn new(start: u64, length: u64) -> Self {
        Self {
            start,
            end: start + length,
        }
    }

    fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    fn advance(&mut self, length: u64) -> io::Result<()> {
        // The library returns 0 only at the end of the image, where no range goes on.
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.start = self.start.saturating_add(length).min(self.end);
        Ok(())
    }
}

#[cfg(test)]
#[path = "hostile_tables_test.rs"]
mod hostile_tables;
#[cfg(test)]
#[path = "refusals_test.rs"]
mod refusals;
#[cfg(test)]
pub(super) mod test_image;
#[cfg(test)]
#[path = "qcow2_test.rs"]
mod tests;
