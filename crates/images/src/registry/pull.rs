//! From a name to an image in the store.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use oci_spec::image::Descriptor;

use super::{Base, Client};
use crate::digest::{Digest, Expected};
use crate::error::{Error, Result, invalid, shortened};
use crate::image::{CONFIGURATION_MAX, Configuration, blobs, expected};
use crate::platform::Platform;
use crate::points::reached;
use crate::reference::{DEFAULT_HOST, Reference};
use crate::store::{Entry, Image, Store};

/// Layers that are got at the same time.
const AT_ONCE: usize = 4;

/// Is told how far a pull has come, from several threads.
pub trait Progress: Sync {
    /// The layers' digests and sizes, the lowest first.
    fn layers(&self, layers: &[(Digest, u64)]);
    /// Something about the layer with this index.
    fn layer(&self, index: usize, event: Event);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was in the store already.
    Exists,
    /// So many bytes are there.
    Downloading(u64),
    Unpacking,
    Done,
}

/// Nobody watches.
impl Progress for () {
    fn layers(&self, _: &[(Digest, u64)]) {}
    fn layer(&self, _: usize, _: Event) {}
}

/// An image that was asked for.
#[derive(Debug)]
pub struct Pulled {
    pub image: Image,
    /// False if the store had it as the registry has it.
    pub is_new: bool,
    /// What the registry calls it: the digest of the manifest, or of the index that it is in.
    pub digest: Digest,
}

impl Client {
    /// Gets an image into the store, with all layers unpacked. What is there already is not got again, and what was got stays if it
    /// fails, for the next attempt.
    pub fn pull(
        &self,
        name: &Reference,
        platform: &Platform,
        store: &Store,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        let mut last = None;
        for host in self.hosts(name) {
            let pulled = self
                .base(&host)
                .and_then(|base| self.pull_from(&base, name, platform, store, progress));
            match pulled {
                // Another registry may have what this one has not.
                Err(
                    error @ (Error::Network(_) | Error::Missing(_) | Error::Denied(_) | Error::Invalid(_)),
                ) => {
                    last = Some(error);
                }
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| invalid(format!("there is no registry for {name}"))))
    }

    /// The registries that may have an image. What the last one says counts.
    fn hosts(&self, name: &Reference) -> Vec<String> {
        let mut hosts = Vec::new();
        if name.host() == DEFAULT_HOST {
            hosts.extend(self.options.mirrors.iter().cloned());
        }
        hosts.push(name.host().to_owned());
        hosts
    }

    fn pull_from(
        &self,
        base: &Base,
        name: &Reference,
        platform: &Platform,
        store: &Store,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        if let Some(pulled) = self.is_current(base, name, platform, store)? {
            return Ok(pulled);
        }
        let found = self.manifest(base, name, platform)?;
        let manifest = expected(&found.descriptor)?;
        let mut lease = store.lease()?;
        let parts = blobs(&found.manifest)?;
        lease.add(parts.iter().chain([&manifest]).map(|blob| &blob.digest))?;
        let config = expected(found.manifest.config())?;
        self.blob(base, name.path(), &config, None, store, &|_| Ok(()))?;
        let configuration = Configuration::parse(&store.read(&config, CONFIGURATION_MAX)?)?;
        configuration.check(&found.manifest)?;
        if !platform.takes(&configuration.platform()) {
            let other = shortened(&configuration.platform().to_string());
            return Err(invalid(format!("{name} is for {other}, and not for {platform}")));
        }
        lease.add(&configuration.diff_ids)?;
        self.layers(
            base,
            name.path(),
            found.manifest.layers(),
            &configuration,
            store,
            progress,
        )?;
        if let Some(mut download) = store.fetch(&manifest)? {
            download.restart()?;
            download.write(&found.bytes)?;
            download.finish()?;
        }
        reached("pulled");
        // What was asked for by its digest alone is known by that.
        store.put(&found.descriptor, Some(name), Some(&found.pulled))?;
        let image = self.image(&found.descriptor, name, &found.pulled, platform, store)?;
        Ok(Pulled {
            image,
            is_new: true,
            digest: found.pulled,
        })
    }

    /// The image of the store, if the registry has the same.
    fn is_current(
        &self,
        base: &Base,
        name: &Reference,
        platform: &Platform,
        store: &Store,
    ) -> Result<Option<Pulled>> {
        let entry = store
            .entries()?
            .into_iter()
            .find(|entry| entry.name.as_ref() == Some(name));
        let Some((entry, own)) = entry.and_then(|entry| Some((entry.clone(), entry.pulled?))) else {
            return Ok(None);
        };
        let is_same = match name.digest() {
            Some(digest) => *digest == own,
            None => self.claimed_digest(base, name)? == Some(own.clone()),
        };
        // What is damaged is got anew.
        let whole = store.image(&entry, platform).and_then(|image| {
            store.check_whole(&image)?;
            store.unpack(&image)?;
            Ok(image)
        });
        match (is_same, whole) {
            (true, Ok(image)) if platform.takes(&image.configuration.platform()) => Ok(Some(Pulled {
                image,
                is_new: false,
                digest: own,
            })),
            _ => Ok(None),
        }
    }

    fn image(
        &self,
        descriptor: &Descriptor,
        name: &Reference,
        pulled: &Digest,
        platform: &Platform,
        store: &Store,
    ) -> Result<Image> {
        let entry = Entry::new(descriptor.clone(), Some(name.clone()), Some(pulled.clone()));
        store.image(&entry, platform)
    }

    /// Gets layers and unpacks each while it comes, some at a time.
    fn layers(
        &self,
        base: &Base,
        repository: &str,
        layers: &[Descriptor],
        configuration: &Configuration,
        store: &Store,
        progress: &dyn Progress,
    ) -> Result<()> {
        let layers = layers.iter().map(expected).collect::<Result<Vec<_>>>()?;
        let shown: Vec<_> = layers
            .iter()
            .map(|blob| (blob.digest.clone(), blob.size.unwrap_or(0)))
            .collect();
        progress.layers(&shown);
        let count = layers.len().min(AT_ONCE);
        let left: Mutex<VecDeque<_>> =
            Mutex::new(layers.iter().zip(&configuration.diff_ids).enumerate().collect());
        let is_over = AtomicBool::new(false);
        let work = || -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((index, (blob, diff_id))) = next else {
                    break;
                };
                let got = self.layer(base, repository, blob, diff_id, store, &is_over, &|event| {
                    progress.layer(index, event)
                });
                if let Err(error) = got {
                    is_over.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        let broken = |_| Err(invalid("a layer could not be got"));
        let mut errors: Vec<_> = results
            .into_iter()
            .filter_map(|each| each.unwrap_or_else(broken).err())
            .collect();
        // One was first to fail. The others have only ended.
        errors.sort_by_key(|error| matches!(error, Error::Cancelled));
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    #[expect(clippy::too_many_arguments)]
    fn layer(
        &self,
        base: &Base,
        repository: &str,
        blob: &Expected,
        diff_id: &Digest,
        store: &Store,
        is_over: &AtomicBool,
        tell: &dyn Fn(Event),
    ) -> Result<()> {
        match store.has(blob) {
            true => tell(Event::Exists),
            false => self.blob(base, repository, blob, Some(diff_id), store, &|count| {
                tell(Event::Downloading(count));
                match is_over.load(Ordering::Relaxed) {
                    true => Err(Error::Cancelled),
                    false => Ok(()),
                }
            })?,
        }
        tell(Event::Unpacking);
        // What was there before, and what a registry gave in another order than it was asked for, is not unpacked yet.
        store.unpack_layer(blob, diff_id)?;
        tell(Event::Done);
        Ok(())
    }
}
