//! Layers as plain tars, which root file systems are made of.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use super::{Image, Store, lock};
use crate::digest::{Digest, Expected};
use crate::error::{Error, Result, invalid};
use crate::image::expected;
use crate::points::reached;

/// Layers unpacked at the same time.
const AT_ONCE: usize = 4;

impl Store {
    /// Makes the plain tar of each of an image's layers, if it is not there.
    pub fn unpack(&self, image: &Image) -> Result<()> {
        let blobs = image
            .manifest
            .layers()
            .iter()
            .map(expected)
            .collect::<Result<Vec<_>>>()?;
        let mut layers: Vec<_> = blobs.iter().zip(&image.configuration.diff_ids).collect();
        layers.retain(|(_, diff_id)| !self.layer_path(diff_id).exists());
        let at_once = thread::available_parallelism()
            .map_or(1, NonZero::get)
            .min(AT_ONCE)
            .min(layers.len());
        // The largest ones are likely to be the lowest. They come first.
        let left = Mutex::new(layers.into_iter());
        let work = || {
            loop {
                let next = left.lock().map(|mut left| left.next()).unwrap_or_default();
                match next {
                    Some((blob, diff_id)) => self.unpack_layer(blob, diff_id)?,
                    None => return Ok(()),
                }
            }
        };
        match at_once {
            0 | 1 => work(),
            _ => thread::scope(|scope| {
                let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
                threads.into_iter().try_for_each(|thread| {
                    let stopped = |_| Err(invalid("a layer could not be unpacked"));
                    thread.join().unwrap_or_else(stopped)
                })
            }),
        }
    }

    /// Makes the plain tar of one layer, if it is not there. What comes out must have the digest that is its name.
    pub fn unpack_layer(&self, blob: &Expected, diff_id: &Digest) -> Result<()> {
        let to = self.layer_path(diff_id);
        if to.exists() {
            return Ok(());
        }
        let partial = self.begin_partial(&format!("layer-{}", diff_id.hex()))?;
        reached("layer-locked");
        if to.exists() {
            return Ok(());
        }
        // A plain blob is there under its own name, and was checked when it got that.
        let source = self.open_blob(&blob.digest)?;
        if blob.digest == *diff_id {
            match fs::hard_link(self.blob_path(&blob.digest), &to) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
                // Not every file system has links.
                Err(_) => {}
            }
        }
        let unpacking = self.start_unpacking(source, partial)?;
        unpacking.complete();
        unpacking.finish(diff_id)
    }

    /// Makes the metadata of a root file system, if they are not there. `make` writes them to an empty file.
    pub fn make_root(&self, chain_id: &Digest, make: impl FnOnce(&File) -> Result<()>) -> Result<()> {
        let to = self.root_path(chain_id);
        if to.exists() {
            return Ok(());
        }
        let partial = self.begin_partial(&format!("root-{}", chain_id.hex()))?;
        if to.exists() {
            return Ok(());
        }
        make(&partial.file)?;
        reached("root-made");
        self.publish(&partial.file, &partial.path, &to)
    }

    /// An empty file under this name, locked. It may have been there, with something in it.
    pub(super) fn begin_partial(&self, name: &str) -> Result<Partial> {
        let path = self.partial(name);
        let file = lock::exclusive(&path)?;
        file.set_len(0).map_err(Error::file("empty", &path))?;
        Ok(Partial { file, path })
    }
}

/// A file that is not whole. It is gone if it does not become so.
pub(super) struct Partial {
    /// Locked.
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing is there once it has another name.
        let _ = fs::remove_file(&self.path);
    }
}
