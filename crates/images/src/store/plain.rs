//! Layers as plain tars, which root file systems are made of.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use super::{Image, Store, lock};
use crate::decompress::decompress;
use crate::digest::{Check, CheckedReader, Digest, Expected};
use crate::error::{Error, Result};
use crate::image::expected;
use crate::points::reached;

const BUFFER: usize = 256 << 10;
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
                    let stopped = |_| Err(crate::error::invalid("a layer could not be unpacked"));
                    thread.join().unwrap_or_else(stopped)
                })
            }),
        }
    }

    /// Makes the plain tar of one layer, if it is not there. Both digests are checked.
    pub fn unpack_layer(&self, blob: &Expected, diff_id: &Digest) -> Result<()> {
        let to = self.layer_path(diff_id);
        if to.exists() {
            return Ok(());
        }
        let path = self.partial(&format!("layer-{}", diff_id.hex()));
        let mut partial = Partial {
            file: lock::exclusive(&path)?,
            path,
        };
        reached("layer-locked");
        if to.exists() {
            return Ok(());
        }
        let source = self.open_blob(&blob.digest)?;
        // A plain blob is there under its own name, and was checked when it got that.
        if blob.digest == *diff_id {
            match fs::hard_link(self.blob_path(&blob.digest), &to) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
                // Not every file system has links.
                Err(_) => {}
            }
        }
        partial.fill(CheckedReader::new(source, blob.clone()), diff_id)?;
        reached("layer-unpacked");
        self.publish(&partial.file, &partial.path, &to)
    }
}

/// A plain tar that is not whole. It is gone if it does not become so.
struct Partial {
    /// Locked.
    file: File,
    path: PathBuf,
}

impl Partial {
    fn fill(&mut self, blob: impl Read + Send, diff_id: &Digest) -> Result<()> {
        self.file.set_len(0).map_err(Error::file("empty", &self.path))?;
        let mut check = Check::new(Expected {
            digest: diff_id.clone(),
            size: None,
        });
        let mut tar = decompress(blob).map_err(Error::reading(&self.path))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = fill(&mut tar, &mut buffer).map_err(|error| broken(error, &self.path, diff_id))?;
            if count == 0 {
                break;
            }
            check.update(&buffer[..count])?;
            self.file
                .write_all(&buffer[..count])
                .map_err(Error::file("write", &self.path))?;
            reached("layer-partly-unpacked");
        }
        check.finish()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing is there once it has another name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads until the buffer is full or the data end.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match source.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn broken(error: std::io::Error, path: &Path, diff_id: &Digest) -> Error {
    match Error::reading(path)(error) {
        Error::File { source, .. } => crate::error::invalid(format!(
            "the layer {diff_id} cannot be decompressed: {source}; get the image anew"
        )),
        own => own,
    }
}
