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
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, ShallowMapping, Storage};

use super::image::lock::Locked;
use crate::config::{Cache, Disk};
use backing::Chain;
use buffers::Cursor;
pub use error::Error;
use header::Header;
use host_file::HostFile;
use metadata::Metadata;
use range::Range;

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
mod range;
mod read;
mod refcounts;
mod zeroes;

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

    /// The files under the image in `file`, and its data file, as texts for a person. The file has `length` bytes, and `disk`
    /// names it. The files under it are opened if a run would open them.
    pub fn look(file: &File, length: u64, disk: &Disk) -> Result<(Vec<String>, Option<String>), Error> {
        let path = disk.file.as_path();
        let mut chain = Chain::new(path, file, &disk.backing)?;
        let header = Header::read(file, length).map_err(|source| Error::header(path, source))?;
        chain.take_memory(&header, !disk.is_only_read())?;
        let data = data_file::describe(file, &header, disk)?;
        Ok((chain.describe_backing(&header), data))
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
            read::read_or_zeroes(&file, &mut cluster, number << header.cluster_bits)
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
