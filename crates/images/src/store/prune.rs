//! Gives back what no image needs.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::image::Descriptor;

use super::{BLOBS, Entry, LAYERS, PARTIAL, ROOTS, Store, lock};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::image::{CONFIGURATION_MAX, Configuration, Document, MANIFEST_MAX, expected};
use crate::points::reached;

/// Documents of one entry: an index, its images, and what is about these.
const DOCUMENTS_MAX: usize = 4096;

/// What was given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Files that are gone.
    pub files: usize,
    /// What they took on the disk.
    pub bytes: u64,
    /// Images without a name that are gone, by their manifests.
    pub images: Vec<Digest>,
}

/// What images lead to.
#[derive(Debug, Default, Clone)]
pub(super) struct Needs {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
    roots: HashSet<Digest>,
}

impl Store {
    /// Removes images without a name, and every file that no image leads to: also what was begun and left. What a guest uses and what
    /// somebody is getting stays.
    pub fn prune(&self) -> Result<Pruned> {
        let _lock = self.lock()?;
        let mut pruned = Pruned::default();
        self.change_locked(|entries| {
            let mut kept = Vec::new();
            for entry in entries.drain(..) {
                match !entry.is_nameless() || self.is_held(&entry.digest()?)? {
                    true => kept.push(entry),
                    false => pruned.images.push(entry.digest()?),
                }
            }
            *entries = kept;
            Ok(())
        })?;
        reached("nameless-removed");
        let needed = self.all_needs()?;
        self.sweep(None, &needed, &mut pruned)?;
        // Whoever holds a lock on one of them is at work.
        let directory = self.directory.join(PARTIAL);
        for file in fs::read_dir(&directory)
            .map_err(Error::file("list", &directory))?
            .flatten()
        {
            remove_if_free(&file.path(), &mut pruned)?;
        }
        Ok(pruned)
    }

    /// Removes what an image that is gone led to, unless another one leads to it as well.
    pub(super) fn give_back(&self, gone: &Needs) -> Result<Pruned> {
        let _lock = self.lock()?;
        let mut pruned = Pruned::default();
        // With a damaged image nobody knows what that needs. Then everything stays.
        if let Ok(needed) = self.all_needs() {
            self.sweep(Some(gone), &needed, &mut pruned)?;
        }
        Ok(pruned)
    }

    /// Removes those of these blobs and layers that nothing leads to.
    pub(super) fn discard(&self, digests: HashSet<Digest>) -> Result<Pruned> {
        self.give_back(&Needs {
            layers: digests.clone(),
            blobs: digests,
            roots: HashSet::new(),
        })
    }

    /// What all names and leases lead to.
    fn all_needs(&self) -> Result<Needs> {
        let leased = self.leased()?;
        let mut needed = Needs {
            blobs: leased.clone(),
            layers: leased.clone(),
            roots: leased,
        };
        for entry in self.entries()? {
            self.add_needs(&entry.descriptor, &mut needed)?;
        }
        Ok(needed)
    }

    pub(super) fn needs(&self, entry: &Entry) -> Result<Needs> {
        let mut needs = Needs::default();
        self.add_needs(&entry.descriptor, &mut needs)?;
        Ok(needs)
    }

    /// What a descriptor leads to. Of an index also images for other platforms, if they are there.
    fn add_needs(&self, descriptor: &Descriptor, needs: &mut Needs) -> Result<()> {
        let mut documents = vec![descriptor.clone()];
        let mut seen = HashSet::new();
        while let Some(descriptor) = documents.pop() {
            let blob = expected(&descriptor)?;
            if !seen.insert(blob.digest.clone()) || seen.len() > DOCUMENTS_MAX {
                continue;
            }
            needs.blobs.insert(blob.digest.clone());
            // Other programs leave out of an index what they do not want.
            if seen.len() > 1 && !self.has(&blob) {
                continue;
            }
            match Document::parse(&self.read(&blob, MANIFEST_MAX)?)? {
                Document::Index(index) => documents.extend(index.manifests().iter().cloned()),
                Document::Manifest(manifest) => {
                    for part in [manifest.config()].into_iter().chain(manifest.layers()) {
                        needs.blobs.insert(expected(part)?.digest);
                    }
                    let text = self.read(&expected(manifest.config())?, CONFIGURATION_MAX);
                    // What is no image has a configuration of another kind.
                    if let Ok(configuration) = text.and_then(|text| Configuration::parse(&text)) {
                        needs.roots.extend(configuration.chain_id());
                        needs.layers.extend(configuration.diff_ids);
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes the files that are not needed: of all, or of some.
    fn sweep(&self, some: Option<&Needs>, needed: &Needs, pruned: &mut Pruned) -> Result<()> {
        let places = [
            (ROOTS, some.map(|some| &some.roots), &needed.roots),
            (LAYERS, some.map(|some| &some.layers), &needed.layers),
            (BLOBS, some.map(|some| &some.blobs), &needed.blobs),
        ];
        for (place, some, needed) in places {
            let candidates = match some {
                Some(some) => some.iter().map(|digest| self.path(place, digest)).collect(),
                None => self.files(place)?,
            };
            for path in candidates {
                let is_needed = digest_of(&path).is_some_and(|digest| needed.contains(&digest));
                if !is_needed {
                    remove_if_free(&path, pruned)?;
                    reached("file-removed");
                }
            }
        }
        Ok(())
    }

    /// All files in one of the store's places, whatever they are called.
    pub(crate) fn files(&self, place: &str) -> Result<Vec<std::path::PathBuf>> {
        let mut files = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let directory = self.directory.join(place).join(algorithm.name());
            if directory.exists() {
                let entries = fs::read_dir(&directory).map_err(Error::file("list", &directory))?;
                files.extend(entries.flatten().map(|entry| entry.path()));
            }
        }
        Ok(files)
    }
}

/// The digest that is a file's name. None if it is none.
pub(super) fn digest_of(path: &Path) -> Option<Digest> {
    let algorithm = path.parent()?.file_name()?.to_str()?;
    format!("{algorithm}:{}", path.file_name()?.to_str()?)
        .parse()
        .ok()
}

/// Removes a file that nobody holds a lock on.
fn remove_if_free(path: &Path, pruned: &mut Pruned) -> Result<()> {
    let Some(file) = lock::try_exclusive(path)? else {
        return Ok(());
    };
    let metadata = file.metadata().map_err(Error::file("look at", path))?;
    fs::remove_file(path).map_err(Error::file("remove", path))?;
    pruned.files += 1;
    // Under another name the file may still be there.
    if metadata.nlink() == 1 {
        pruned.bytes += metadata.blocks() * 512;
    }
    Ok(())
}
