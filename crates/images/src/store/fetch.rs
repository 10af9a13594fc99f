//! Blobs on their way into the store.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::unpacking::Unpacking;
use super::{Lease, Store, lock};
use crate::digest::{Algorithm, Check, Digest, Expected, Hasher};
use crate::error::{Error, Result};
use crate::points::reached;

const BUFFER: usize = 64 << 10;

impl Store {
    /// True if the blob is there, as far as its size tells.
    pub fn has(&self, blob: &Expected) -> bool {
        let metadata = fs::symlink_metadata(self.blob_path(&blob.digest));
        metadata
            .is_ok_and(|metadata| metadata.is_file() && blob.size.is_none_or(|size| size == metadata.len()))
    }

    /// Begins to get a blob, or goes on with what was got of it earlier. None if it is there. While another process or thread gets
    /// it, this waits.
    pub fn fetch(&self, blob: &Expected) -> Result<Option<Download>> {
        if self.has(blob) {
            return Ok(None);
        }
        let path = self.partial(&format!("blob-{}", blob.digest.hex()));
        let file = lock::exclusive(&path)?;
        let mut download = Download {
            store: self.clone(),
            file,
            path,
            blob: blob.clone(),
            check: Check::new(blob.clone()),
            unpacking: None,
            is_published: false,
        };
        reached("blob-locked");
        if self.has(blob) {
            return Ok(None);
        }
        download.resume()?;
        Ok(Some(download))
    }

    /// Begins to write a blob whose digest shows at its end.
    pub fn spool(&self) -> Result<Spool> {
        let path = self.partial(&format!("spool-{}", unique()));
        let file = lock::exclusive(&path)?;
        let hasher = Hasher::new(Algorithm::Sha256);
        Ok(Spool {
            store: self.clone(),
            file,
            path,
            hasher,
            size: 0,
        })
    }

    /// Puts a small blob into the store.
    pub fn put_bytes(&self, bytes: &[u8], lease: &mut Lease) -> Result<Expected> {
        let mut spool = self.spool()?;
        spool.put(bytes)?;
        spool.finish(lease)
    }
}

/// A name that no other process or thread uses.
pub(super) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{SystemTime, UNIX_EPOCH};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{count}-{time:x}", std::process::id())
}

/// A blob of which a part may be there. What was written stays for the next who wants the blob.
pub struct Download {
    pub(super) store: Store,
    /// Locked.
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) blob: Expected,
    check: Check,
    /// The layer that it is, if that is unpacked meanwhile.
    pub(super) unpacking: Option<(Unpacking, Digest)>,
    is_published: bool,
}

impl Download {
    /// Bytes that are there.
    pub fn count(&self) -> u64 {
        self.check.count()
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.check.update(bytes) {
            // Somebody lied. Nothing of it is of use.
            self.restart()?;
            return Err(error);
        }
        self.file
            .write_all(bytes)
            .map_err(writing(&self.path, &self.blob))?;
        reached("blob-partly-written");
        if let Some((unpacking, _)) = &self.unpacking {
            unpacking.grow_to(self.check.count());
        }
        let has_given_up = |(unpacking, _): &mut (Unpacking, _)| unpacking.has_given_up();
        match self.unpacking.take_if(has_given_up) {
            Some((unpacking, diff_id)) => unpacking.finish(&diff_id),
            None => Ok(()),
        }
    }

    /// Forgets what is there, and unpacks no more.
    pub fn restart(&mut self) -> Result<()> {
        self.unpacking = None;
        self.check = Check::new(self.blob.clone());
        let truncated = self
            .file
            .set_len(0)
            .and_then(|()| io::Seek::rewind(&mut self.file));
        truncated.map_err(Error::file("empty", &self.path))
    }

    /// Checks the blob and gives it its name. One that is not what was expected is forgotten, and what was unpacked of it.
    pub fn finish(mut self) -> Result<()> {
        if let Err(error) = self.check.clone().finish() {
            self.restart()?;
            return Err(error);
        }
        if let Some((unpacking, _)) = &self.unpacking {
            unpacking.complete();
        }
        let to = self.store.blob_path(&self.blob.digest);
        self.store.publish(&self.file, &self.path, &to)?;
        self.is_published = true;
        match self.unpacking.take() {
            Some((unpacking, diff_id)) => unpacking.finish(&diff_id),
            None => Ok(()),
        }
    }

    /// Takes what is there of the blob into account.
    fn resume(&mut self) -> Result<()> {
        let length = self
            .file
            .metadata()
            .map_err(Error::file("look at", &self.path))?
            .len();
        if self.blob.size.is_some_and(|size| length > size) {
            return self.restart();
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            match self
                .file
                .read(&mut buffer)
                .map_err(Error::file("read", &self.path))?
            {
                0 => break,
                count => self.check.update(&buffer[..count])?,
            }
        }
        match self.blob.size {
            Some(size) => self.store.need(&self.path, size - self.count(), "the blob"),
            None => Ok(()),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // Its lock is held still, so nobody else writes to it.
        if !self.is_published && self.check.count() == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Store {
    /// Fails if the disk has no room for so many bytes.
    pub(super) fn need(&self, path: &Path, bytes: u64, what: &str) -> Result<()> {
        match rustix::fs::statvfs(&self.directory) {
            Ok(space) if space.f_bavail.saturating_mul(space.f_frsize) < bytes => Err(Error::full(
                path.to_owned(),
                format!("{what} needs {bytes} more bytes"),
            )),
            _ => Ok(()),
        }
    }
}

/// For `map_err`, of a write to what is to be a blob.
fn writing(path: &Path, blob: &Expected) -> impl FnOnce(io::Error) -> Error {
    let (path, size) = (path.to_owned(), blob.size);
    move |error| match (error.kind(), size) {
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, Some(size)) => {
            Error::full(path, format!("the blob has {size} bytes"))
        }
        _ => Error::file("write", &path)(error),
    }
}

/// A blob that is hashed while it is written. It is gone if it does not become whole.
pub struct Spool {
    store: Store,
    /// Locked.
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size: u64,
}

impl Spool {
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(Error::file("write", &self.path))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        reached("spool-partly-written");
        Ok(())
    }

    /// Gives the blob its name, and says what that is. From then on it is leased.
    pub fn finish(self, lease: &mut Lease) -> Result<Expected> {
        let blob = Expected {
            digest: self.hasher.clone().digest(),
            size: Some(self.size),
        };
        lease.add([&blob.digest])?;
        if !self.store.has(&blob) {
            let to = self.store.blob_path(&blob.digest);
            self.store.publish(&self.file, &self.path, &to)?;
        }
        Ok(blob)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Nothing is there once it has another name.
        let _ = fs::remove_file(&self.path);
    }
}
