//! The threads that unpack layers: all that decompresses and takes apart what an image's maker wrote runs on one of them.
//!
//! Such a thread opens no file and no socket. It has two open files: it reads the blob, which another thread may still be getting from a
//! registry, and writes the tar. So it can be confined to that before it sees the first byte, by [`Store::confined`].

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::thread::{self, JoinHandle};

use super::growing::Growing;
use super::plain::Partial;
use super::{Download, Store};
use crate::digest::Digest;
use crate::error::{Error, Result, invalid};
use crate::layer::{Unpacked, unpack};
use crate::points::reached;

/// Takes from the calling thread what it needs not, for good. It is given the store's directory, outside of which nothing is used. With an
/// error nothing is unpacked.
pub type Confine = fn(&Path) -> io::Result<()>;

/// Bytes of a layer when it is unpacked. Zeros take no room on the disk, but time.
const UNPACKED_MAX: u64 = 64 << 30;

impl Store {
    /// A store of which every thread that unpacks calls `confine` first.
    pub fn confined(mut self, confine: Confine) -> Self {
        self.confine = Some(confine);
        self
    }

    /// Starts to unpack a blob to a partial file.
    pub(super) fn start_unpacking(&self, blob: File, tar: Partial) -> Result<Unpacking> {
        let blob = Growing::new(blob);
        let (store, input) = (self.clone(), blob.clone());
        let output = tar.file.try_clone().map_err(Error::file("use", &tar.path))?;
        let work = move || {
            let done = store.work(&input, &output);
            // There is no use in getting the rest of a blob for which there is no room. A damaged one is told of by its digest.
            if done.as_ref().is_err_and(|failure| !failure.is_of_data()) {
                input.give_up();
            }
            done
        };
        let thread = thread::Builder::new().name("unpack".into()).spawn(work);
        Ok(Unpacking {
            store: self.clone(),
            blob,
            tar,
            thread: Some(thread.map_err(Error::file("unpack to", &self.directory))?),
        })
    }

    /// What the thread does.
    fn work(&self, blob: &Growing, tar: &File) -> Result<Unpacked, Failure> {
        if let Some(confine) = self.confine {
            confine(&self.directory).map_err(Failure::Unconfined)?;
        }
        let unpack = || {
            let unpacked = unpack(blob.reader(), tar, UNPACKED_MAX)?;
            // The digest is of the tar without what fills it up.
            tar.set_len(unpacked.size)?;
            tar.sync_data()?;
            Ok(unpacked)
        };
        unpack().map_err(Failure::Unpacking)
    }
}

enum Failure {
    Unconfined(io::Error),
    Unpacking(io::Error),
}

impl Failure {
    /// Whether what is in the blob is at fault.
    fn is_of_data(&self) -> bool {
        use ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        match self {
            Self::Unconfined(_) => false,
            Self::Unpacking(why) => matches!(why.kind(), InvalidData | InvalidInput | UnexpectedEof),
        }
    }

    fn error(self, store: &Store, tar: &Path) -> Error {
        let is_of_data = self.is_of_data();
        match self {
            Self::Unconfined(why) => {
                Error::file("confine the thread that unpacks layers to", &store.directory)(why)
            }
            Self::Unpacking(why) if is_of_data => invalid(why.to_string()),
            Self::Unpacking(why) => Error::file("unpack a layer to", tar)(why),
        }
    }
}

/// A layer that a thread unpacks. The thread has ended when this is dropped.
pub(super) struct Unpacking {
    store: Store,
    blob: Growing,
    tar: Partial,
    /// None once its result was taken.
    thread: Option<JoinHandle<Result<Unpacked, Failure>>>,
}

impl Unpacking {
    /// So many bytes of the blob are there.
    pub(super) fn grow_to(&self, length: u64) {
        self.blob.grow_to(length);
    }

    /// All of the blob is there.
    pub(super) fn complete(&self) {
        self.blob.complete();
    }

    /// Whether the thread can do no more, and not because of what is in the blob.
    pub(super) fn has_given_up(&self) -> bool {
        self.blob.is_given_up()
    }

    /// Waits for the tar, and gives it its name if that is its digest. The caller has checked the blob.
    pub(super) fn finish(mut self, diff_id: &Digest) -> Result<()> {
        let done = self.thread.take().map(JoinHandle::join);
        let Some(Ok(done)) = done else {
            return Err(invalid(format!("the layer {diff_id} could not be unpacked")));
        };
        let unpacked = done.map_err(|failure| failure.error(&self.store, &self.tar.path))?;
        if unpacked.diff_id != *diff_id {
            let found = unpacked.diff_id;
            return Err(invalid(format!(
                "the layer {diff_id} is damaged or was exchanged: its data have the digest {found}; get the image anew"
            )));
        }
        reached("layer-unpacked");
        let to = self.store.layer_path(diff_id);
        self.store.publish(&self.tar.file, &self.tar.path, &to)
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        self.blob.give_up();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Download {
    /// Also unpacks the blob, while it is still got, to the layer's plain tar. Both get their names by [`finish`](Self::finish), if both have
    /// the right digests. Does nothing where there is nothing to unpack.
    pub fn unpack_as(&mut self, diff_id: &Digest) -> Result<()> {
        let (store, blob) = (&self.store, &self.blob.digest);
        if blob == diff_id || store.layer_path(diff_id).exists() {
            return Ok(());
        }
        // Nobody else has the blob's lock, so nobody is waited for.
        let tar = store.begin_partial(&format!("unpacked-{}", blob.hex()))?;
        let file = self.file.try_clone().map_err(Error::file("use", &self.path))?;
        let unpacking = store.start_unpacking(file, tar)?;
        unpacking.grow_to(self.count());
        self.unpacking = Some((unpacking, diff_id.clone()));
        Ok(())
    }
}

#[cfg(test)]
#[path = "unpacking_test.rs"]
mod tests;
