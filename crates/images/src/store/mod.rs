//! Images on the disk: an OCI image layout that other programs can read, and beside it what Coracle makes of the layers.
//!
//! ```text
//! oci-layout, index.json    one descriptor a name
//! blobs/sha256/             manifests, configurations and layers, as they were got
//! layers/sha256/            each layer's plain tar, by its diff ID; the same file as the blob if that is a plain tar
//! roots/sha256/             the metadata of root file systems, by chain ID
//! partial/                  what is not whole yet; leases
//! lock                      held while index.json is changed, and while something is removed
//! ```
//!
//! A file gets its name in the first four places when it is whole, checked and on the disk. What a name in `index.json` leads to is
//! there. Everything else may be removed: by [`Store::prune`], or when the last name of an image goes. Three things keep it from
//! that: a name, a [`Lease`] of somebody who is getting an image, and a [`Hold`] of a guest that runs.

mod fetch;
mod growing;
mod hold;
mod index;
mod lease;
mod lock;
mod names;
mod plain;
mod prune;
mod root;
mod unpacking;
mod verify;

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use fetch::{Download, Spool};
pub use hold::Hold;
pub use index::Entry;
pub(crate) use index::{FULL_NAME, REF_NAME, name_of, parse as parse_index};
pub use lease::Lease;
pub use names::{Image, Removed, missing};
pub use prune::Pruned;
pub use unpacking::Confine;
pub use verify::Problem;

use crate::digest::{Algorithm, CheckedReader, Digest, Expected};
use crate::error::{Error, Result};

/// OCI image specification, "oci-layout file".
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const BLOBS: &str = "blobs";
const LAYERS: &str = "layers";
const ROOTS: &str = "roots";
const PARTIAL: &str = "partial";

/// A directory with images. Any number of processes and threads may use it at once.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    /// What each thread that unpacks calls first.
    confine: Option<Confine>,
}

impl Store {
    /// Opens the store in this directory, and makes it if it is not there, for its user alone.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        // Few blobs have another digest. Its directory is made with the first of them.
        for place in [BLOBS, LAYERS, ROOTS] {
            make_directory(&directory.join(place).join(Algorithm::Sha256.name()))?;
        }
        make_directory(&directory.join(PARTIAL))?;
        let store = Self {
            directory,
            confine: None,
        };
        if !store.directory.join(index::FILE).exists() || !store.directory.join("oci-layout").exists() {
            let _lock = store.lock()?;
            store.replace("oci-layout", LAYOUT.as_bytes())?;
            if !store.directory.join(index::FILE).exists() {
                store.write_index(&index::empty())?;
            }
        }
        Ok(store)
    }

    /// The store in this directory, if there is one: with one look at one file.
    pub fn existing(directory: impl Into<PathBuf>) -> Option<Self> {
        let directory = directory.into();
        // It is made last.
        let is_there = directory.join(index::FILE).exists();
        is_there.then_some(Self {
            directory,
            confine: None,
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a blob is, if it is there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path(BLOBS, digest)
    }

    /// Where a layer's plain tar is, if it is there.
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.path(LAYERS, diff_id)
    }

    /// Where the metadata of a root file system are, if they are there.
    pub fn root_path(&self, chain_id: &Digest) -> PathBuf {
        self.path(ROOTS, chain_id)
    }

    /// Reads a small blob, and checks it. One with more than `most` bytes is refused.
    pub fn read(&self, blob: &Expected, most: u64) -> Result<Vec<u8>> {
        let path = self.blob_path(&blob.digest);
        let file = self.open_blob(&blob.digest)?;
        let mut bytes = Vec::new();
        let mut reader = CheckedReader::new(file, blob.clone()).take(most + 1);
        reader.read_to_end(&mut bytes).map_err(Error::reading(&path))?;
        match bytes.len() as u64 > most {
            true => Err(crate::error::invalid(format!(
                "the blob {} has more than {most} bytes",
                blob.digest
            ))),
            false => Ok(bytes),
        }
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::Missing(format!(
                "the blob {digest} is not in the store; pull or load the image again"
            ))),
            opened => opened.map_err(Error::file("open", &path)),
        }
    }

    /// The first bytes of a blob, by which its format is told.
    pub(crate) fn begin(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut begin = Vec::new();
        let read = self.open_blob(digest)?.take(512).read_to_end(&mut begin);
        read.map_err(Error::file("read", &self.blob_path(digest)))?;
        Ok(begin)
    }

    /// Bytes of a blob that is there.
    pub(crate) fn size(&self, digest: &Digest) -> Result<u64> {
        let metadata = self.open_blob(digest)?.metadata();
        Ok(metadata
            .map_err(Error::file("look at", &self.blob_path(digest)))?
            .len())
    }

    fn path(&self, place: &str, digest: &Digest) -> PathBuf {
        self.directory
            .join(place)
            .join(digest.algorithm().name())
            .join(digest.hex())
    }

    fn partial(&self, name: &str) -> PathBuf {
        self.directory.join(PARTIAL).join(name)
    }

    /// Waits until nobody else changes the index or removes anything.
    fn lock(&self) -> Result<File> {
        lock::exclusive(&self.directory.join("lock"))
    }

    /// Replaces a file of the store at once. The caller holds the lock.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, new) = (
            self.directory.join(name),
            self.directory.join(format!("{name}.new")),
        );
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        });
        written.map_err(Error::file("write", &new))?;
        crate::points::reached("index-written");
        fs::rename(&new, &path).map_err(Error::file("replace", &path))?;
        crate::points::reached("index-replaced");
        sync_directory(&self.directory)
    }

    /// Gives a whole file its name.
    fn publish(&self, file: &File, from: &Path, to: &Path) -> Result<()> {
        file.sync_data().map_err(Error::file("write", from))?;
        crate::points::reached("before-rename");
        if let Some(directory) = to.parent() {
            make_directory(directory)?;
        }
        fs::rename(from, to).map_err(Error::file("make", to))?;
        crate::points::reached("after-rename");
        Ok(())
    }
}

fn make_directory(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(Error::file("make the directory", path))
}

fn sync_directory(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(Error::file("write", path))
}

#[cfg(test)]
#[path = "store_test.rs"]
mod tests;
