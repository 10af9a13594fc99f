//! `index.json`: which names there are, and of which images.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use oci_spec::image::{Descriptor, ImageIndex, ImageIndexBuilder, MediaType};

use super::{BLOBS, LAYERS, Store, sync_directory};
use crate::digest::Digest;
use crate::error::{Error, Result, invalid};
use crate::reference::Reference;

pub(super) const FILE: &str = "index.json";
const SIZE_MAX: u64 = 32 << 20;

/// The name by which programs for layouts find an image (OCI image specification, "Pre-Defined Annotation Keys").
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation for a full name.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";
/// The digest by which a registry has the image, if that is an index's.
const PULLED: &str = "dev.coracle.image.pulled";

/// An image with one of its names, or without a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of the manifest, without annotations.
    pub descriptor: Descriptor,
    pub name: Option<Reference>,
    /// What the registry calls the manifest, or the index that the manifest was found in.
    pub pulled: Option<Digest>,
    /// As they were read: other programs have their own.
    annotations: HashMap<String, String>,
}

impl Entry {
    pub fn new(descriptor: Descriptor, name: Option<Reference>, pulled: Option<Digest>) -> Self {
        Self {
            descriptor,
            name,
            pulled,
            annotations: HashMap::new(),
        }
    }

    pub(super) fn digest(&self) -> Result<Digest> {
        self.descriptor.digest().as_ref().parse()
    }

    /// False also for a name of another program's that is none here.
    pub(super) fn is_nameless(&self) -> bool {
        self.name.is_none() && !self.annotations.contains_key(REF_NAME)
    }

    fn read(descriptor: &Descriptor) -> Self {
        let annotations = descriptor.annotations().clone().unwrap_or_default();
        let mut plain = descriptor.clone();
        plain.set_annotations(None);
        Self {
            descriptor: plain,
            name: name_in(&annotations),
            pulled: pulled_in(&annotations),
            annotations,
        }
    }

    /// What nobody has changed stays as another program may have written it.
    fn write(&self) -> Descriptor {
        let mut annotations = self.annotations.clone();
        if self.name != name_in(&annotations) {
            annotations.retain(|key, _| key != REF_NAME && key != FULL_NAME);
            if let Some(name) = &self.name {
                annotations.insert(REF_NAME.to_owned(), name.familiar());
                annotations.insert(FULL_NAME.to_owned(), name.to_string());
            }
        }
        if self.pulled != pulled_in(&annotations) {
            annotations.remove(PULLED);
            annotations.extend(
                self.pulled
                    .as_ref()
                    .map(|pulled| (PULLED.to_owned(), pulled.to_string())),
            );
        }
        let mut descriptor = self.descriptor.clone();
        descriptor.set_annotations((!annotations.is_empty()).then_some(annotations));
        descriptor
    }
}

fn name_in(annotations: &HashMap<String, String>) -> Option<Reference> {
    let name = |key| annotations.get(key)?.parse().ok();
    // Other programs write only the shorter one.
    name(FULL_NAME).or_else(|| name(REF_NAME))
}

fn pulled_in(annotations: &HashMap<String, String>) -> Option<Digest> {
    annotations.get(PULLED)?.parse().ok()
}

pub(super) fn empty() -> ImageIndex {
    let builder = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex);
    // All that must be given is given.
    builder.manifests([]).build().expect("an index without images")
}

impl Store {
    /// Every name, and the images that have none.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        Ok(self.read_index()?.manifests().iter().map(Entry::read).collect())
    }

    /// Changes the names. What the new ones lead to is on the disk before the index is.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Vec<Entry>) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        self.change_locked(change)
    }

    /// As [`change`](Self::change), for who holds the lock.
    pub(super) fn change_locked<T>(&self, change: impl FnOnce(&mut Vec<Entry>) -> Result<T>) -> Result<T> {
        let mut index = self.read_index()?;
        let before: Vec<_> = index.manifests().iter().map(Entry::read).collect();
        let mut after = before.clone();
        let result = change(&mut after)?;
        if after != before {
            for place in [BLOBS, LAYERS] {
                sync_directory(&self.directory.join(place).join("sha256"))?;
            }
            index.set_manifests(after.iter().map(Entry::write).collect());
            self.write_index(&index)?;
        }
        Ok(result)
    }

    fn read_index(&self) -> Result<ImageIndex> {
        let path = self.directory.join(FILE);
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        let read = file.take(SIZE_MAX + 1).read_to_end(&mut bytes);
        read.map_err(Error::file("read", &path))?;
        parse(&bytes).map_err(|why| {
            let path = path.display();
            invalid(format!(
                "{path}, the list of images, is damaged: {why}; remove it, and pull the images again"
            ))
        })
    }

    pub(super) fn write_index(&self, index: &ImageIndex) -> Result<()> {
        // By way of a value, whose keys are sorted: the same images make the same bytes.
        let text = serde_json::to_value(index).and_then(|value| serde_json::to_vec(&value));
        let text = text.map_err(|why| invalid(format!("cannot write the list of images: {why}")))?;
        self.replace(FILE, &text)
    }
}

/// Reads the `index.json` of a layout.
pub(crate) fn parse(bytes: &[u8]) -> Result<ImageIndex, String> {
    if bytes.len() as u64 > SIZE_MAX {
        return Err("it has more than 32 MiB".into());
    }
    let index: ImageIndex = serde_json::from_slice(bytes).map_err(|why| why.to_string())?;
    match index.schema_version() {
        2 => Ok(index),
        _ => Err("its schemaVersion is not 2".into()),
    }
}

/// The names that a layout of somebody else's gives an image.
pub(crate) fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    Entry::read(descriptor).name
}
