//! Images from archives: what `docker save` writes, OCI layouts, and tars of OCI layouts.

mod docker;
mod import;
mod layout;
mod source;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use oci_spec::image::{Descriptor, ImageManifest};

pub use import::{Import, import};
use source::{Source, unreadable};

use crate::decompress::decompress;
use crate::digest::Digest;
use crate::error::{Error, Result, invalid, shortened};
use crate::image::Configuration;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Entry, Lease, Store};

/// Bytes of `index.json` and `manifest.json`.
const LIST_MAX: u64 = 4 << 20;

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The digest of its configuration.
    pub id: Digest,
    pub names: Vec<Reference>,
}

/// Puts the images of an archive, or of a directory with a layout, into the store: of each the one for the platform. They are in the
/// store with all of their layers, or not at all.
pub fn load(path: &Path, store: &Store, platform: &Platform) -> Result<Vec<Loaded>> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let metadata = file.metadata().map_err(Error::file("look at", path))?;
    if metadata.is_dir() {
        return Loading::new(store, platform)?.load(&Source::Directory(path.to_owned()));
    }
    let mut begin = [0; 512];
    if !metadata.is_file() {
        return load_stream(file, store, platform);
    }
    let count = file.read(&mut begin).map_err(Error::file("read", path))?;
    file.rewind().map_err(Error::file("read", path))?;
    match crate::decompress::is_compressed(&begin[..count]) {
        true => load_stream(file, store, platform),
        false => Loading::new(store, platform)?.load(&Source::tar(file)?),
    }
}

/// As [`load`], of an archive that can be read once only, from its begin to its end.
pub fn load_stream(stream: impl Read + Send, store: &Store, platform: &Platform) -> Result<Vec<Loaded>> {
    let mut loading = Loading::new(store, platform)?;
    let stream = decompress(stream).map_err(|error| unreadable(&error))?;
    let loaded = Source::spool(stream, store, &mut loading.lease).and_then(|source| loading.from(&source));
    // Of all that was read, what the images need stays.
    loading.lease.give_up()?;
    loaded
}

struct Loading<'a> {
    store: &'a Store,
    platform: &'a Platform,
    lease: Lease,
}

impl<'a> Loading<'a> {
    fn new(store: &'a Store, platform: &'a Platform) -> Result<Self> {
        let lease = store.lease()?;
        Ok(Self {
            store,
            platform,
            lease,
        })
    }

    fn load(mut self, source: &Source) -> Result<Vec<Loaded>> {
        let loaded = self.from(source);
        if loaded.is_err() {
            self.lease.give_up()?;
        }
        loaded
    }

    fn from(&mut self, source: &Source) -> Result<Vec<Loaded>> {
        let list = source.read("manifest.json", LIST_MAX)?;
        let list = list.map(|bytes| docker::parse(&bytes)).transpose()?;
        match (source.read("index.json", LIST_MAX)?, list) {
            (Some(index), list) => self.layout(source, &index, &list.unwrap_or_default()),
            (None, Some(list)) => self.docker(source, &list),
            (None, None) => Err(invalid(
                "there is no image in it: neither manifest.json, as `docker save` writes it, nor index.json of an OCI layout; \
                 a root file system is made an image by `coracle import`",
            )),
        }
    }

    /// Refuses images for other platforms.
    fn check_platform(&self, configuration: &Configuration) -> Result<()> {
        let platform = configuration.platform();
        match self.platform.takes(&platform) {
            true => Ok(()),
            false => Err(invalid(format!(
                "the image is for {}, and not for {}",
                shortened(&platform.to_string()),
                self.platform
            ))),
        }
    }

    /// Unpacks an image of which all blobs are there, and gives it its names.
    fn finish(
        &mut self,
        descriptor: &Descriptor,
        manifest: &ImageManifest,
        names: Vec<Reference>,
    ) -> Result<Loaded> {
        let entry = Entry::new(descriptor.clone(), None, None);
        let image = self.store.image(&entry, self.platform)?;
        self.lease.add(&image.configuration.diff_ids)?;
        self.store.unpack(&image)?;
        for name in &names {
            self.store.put(descriptor, Some(name), None)?;
        }
        if names.is_empty() {
            self.store.put(descriptor, None, None)?;
        }
        Ok(Loaded {
            id: manifest.config().digest().as_ref().parse()?,
            names,
        })
    }
}

#[cfg(test)]
#[path = "load_test.rs"]
mod tests;
