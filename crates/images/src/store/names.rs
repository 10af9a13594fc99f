//! Images by their names and IDs.

use oci_spec::image::{Descriptor, ImageManifest};

use super::prune::Pruned;
use super::{Entry, Store};
use crate::digest::Digest;
use crate::error::{Error, Result, invalid, shortened};
use crate::image::{
    CONFIGURATION_MAX, Configuration, Document, MANIFEST_MAX, check_manifest, expected, select,
};
use crate::platform::Platform;
use crate::points::reached;
use crate::reference::Reference;

/// Indexes in each other.
const DEPTH_MAX: usize = 4;

/// An image of the store: for one platform, and by one of its names.
#[derive(Debug, Clone)]
pub struct Image {
    pub entry: Entry,
    /// Of the manifest, without annotations.
    pub descriptor: Descriptor,
    pub manifest_digest: Digest,
    pub manifest: ImageManifest,
    pub configuration: Configuration,
    /// As it is in the store.
    pub configuration_text: Vec<u8>,
}

impl Image {
    /// What Docker calls the image's ID: the digest of its configuration.
    pub fn id(&self) -> Result<Digest> {
        self.manifest.config().digest().as_ref().parse()
    }

    /// Bytes of all layers, as they are compressed.
    pub fn size(&self) -> u64 {
        self.manifest
            .layers()
            .iter()
            .fold(0, |sum, layer| sum.saturating_add(layer.size()))
    }
}

/// What [`Store::remove`] did.
#[derive(Debug, Default)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<Reference>,
    /// The ID of the image, if it has no name any more and is gone, too.
    pub image: Option<Digest>,
    /// What that gave back.
    pub pruned: Pruned,
}

impl Store {
    /// Reads what an entry leads to, for the platform.
    pub fn image(&self, entry: &Entry, platform: &Platform) -> Result<Image> {
        let mut descriptor = entry.descriptor.clone();
        for _ in 0..DEPTH_MAX {
            match Document::parse(&self.read(&expected(&descriptor)?, MANIFEST_MAX)?)? {
                Document::Index(index) => descriptor = select(&index, platform)?.clone(),
                Document::Manifest(manifest) => {
                    check_manifest(&manifest)?;
                    let configuration_text = self.read(&expected(manifest.config())?, CONFIGURATION_MAX)?;
                    let configuration = Configuration::parse(&configuration_text)?;
                    configuration.check(&manifest)?;
                    return Ok(Image {
                        entry: entry.clone(),
                        manifest_digest: descriptor.digest().as_ref().parse()?,
                        descriptor,
                        manifest: *manifest,
                        configuration,
                        configuration_text,
                    });
                }
            }
        }
        Err(invalid(format!(
            "the image's indexes lead to each other more than {DEPTH_MAX} times"
        )))
    }

    /// The image that a person means: by a name, by a name and a digest, or by the begin of its ID.
    pub fn find(&self, text: &str, platform: &Platform) -> Result<Image> {
        let entries = self.entries()?;
        let by_name = match text.parse::<Reference>() {
            Ok(name) => entries.iter().find(|entry| is_meant(entry, &name)),
            Err(_) => None,
        };
        if let Some(entry) = by_name {
            return self.image(entry, platform);
        }
        let mut found = self.by_id(&entries, text, platform)?;
        found.dedup_by(|a, b| a.manifest_digest == b.manifest_digest);
        let ids: Vec<_> = found.iter().map(Image::id).collect::<Result<_>>()?;
        match found.into_iter().next() {
            Some(_) if ids.iter().any(|id| id != &ids[0]) => Err(invalid(format!(
                "'{}' is the begin of more than one image's ID; give more of it",
                shortened(text)
            ))),
            Some(image) => Ok(image),
            None => Err(missing(text)),
        }
    }

    /// All entries of images whose ID begins like this.
    fn by_id(&self, entries: &[Entry], text: &str, platform: &Platform) -> Result<Vec<Image>> {
        let begin = text.strip_prefix("sha256:").unwrap_or(text);
        if begin.is_empty()
            || !begin
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Ok(Vec::new());
        }
        // A damaged image has no ID that could be looked for.
        let images = entries
            .iter()
            .filter_map(|entry| self.image(entry, platform).ok());
        Ok(images
            .filter(|image| image.id().is_ok_and(|id| id.hex().starts_with(begin)))
            .collect())
    }

    /// Gives an image a name, or keeps it without one. Another image that had the name is there without it, until it is pruned.
    pub fn put(
        &self,
        descriptor: &Descriptor,
        name: Option<&Reference>,
        pulled: Option<&Digest>,
    ) -> Result<()> {
        let mut plain = descriptor.clone();
        plain.set_annotations(None);
        reached("before-name");
        self.change(|entries| {
            let is_same = |entry: &Entry| entry.descriptor.digest() == plain.digest();
            match name {
                None if entries.iter().any(is_same) => return Ok(()),
                None => {}
                Some(name) => {
                    // Without the name, or with this one.
                    entries.retain(|entry| {
                        !(is_same(entry) && entry.name.as_ref().is_none_or(|old| old == name))
                    });
                    release(entries, name);
                }
            }
            entries.push(Entry::new(plain.clone(), name.cloned(), pulled.cloned()));
            Ok(())
        })
    }

    /// Gives an image of the store one more name.
    pub fn tag(&self, source: &str, name: &Reference) -> Result<()> {
        if name.digest().is_some() {
            return Err(invalid(format!(
                "'{name}' has a digest; give a name with a tag only"
            )));
        }
        let image = self.find(source, &Platform::default())?;
        self.put(&image.entry.descriptor, Some(name), image.entry.pulled.as_ref())
    }

    /// Removes a name, and with an image's last name the image. By an ID it removes all names, if there is one or `force` is given. An
    /// image that a guest uses stays, and so does its last name.
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed> {
        let platform = Platform::default();
        self.change(|entries| {
            let name = text.parse::<Reference>().ok();
            let named = name.and_then(|name| entries.iter().find(|entry| is_meant(entry, &name)).cloned());
            let gone = match named {
                Some(entry) => vec![entry],
                None => self.by_id(entries, text, &platform)?.into_iter().map(|image| image.entry).collect(),
            };
            let first = gone.first().ok_or_else(|| missing(text))?;
            if gone.iter().any(|entry| entry.descriptor.digest() != first.descriptor.digest()) {
                return Err(invalid(format!("'{}' is the begin of more than one image's ID; give more of it", shortened(text))));
            }
            if gone.len() > 1 && !force {
                let names: Vec<_> = gone.iter().flat_map(|entry| &entry.name).map(Reference::familiar).collect();
                let names = names.join(", ");
                return Err(Error::Conflict(format!(
                    "the image has more than one name: {names}; remove it by these, or all at once with --force"
                )));
            }
            let digest = first.descriptor.digest().clone();
            let id = self.image(first, &platform).ok().and_then(|image| image.id().ok());
            let mut left = entries.clone();
            left.retain(|entry| !gone.contains(entry));
            let is_last = left.iter().all(|entry| *entry.descriptor.digest() != digest);
            if is_last && self.is_held(&first.digest()?)? {
                return Err(Error::Conflict(format!(
                    "a guest that runs uses the image '{}'; stop it, then remove the image",
                    shortened(text)
                )));
            }
            let needs = is_last.then(|| self.needs(first));
            *entries = left;
            Ok((gone, needs.and_then(Result::ok), id))
        })
        .and_then(|(gone, needs, id)| {
            reached("untagged");
            Ok(Removed {
                untagged: gone.into_iter().filter_map(|entry| entry.name).collect(),
                pruned: match &needs {
                    Some(needs) => self.give_back(needs)?,
                    None => Pruned::default(),
                },
                image: needs.and(id),
            })
        })
    }
}

/// Takes a name from the image that has it. That image stays, without a name if it has no other.
fn release(entries: &mut Vec<Entry>, name: &Reference) {
    let Some(at) = entries.iter().position(|entry| entry.name.as_ref() == Some(name)) else {
        return;
    };
    let digest = entries[at].descriptor.digest().clone();
    let has_other = entries
        .iter()
        .enumerate()
        .any(|(other, entry)| other != at && *entry.descriptor.digest() == digest);
    match has_other {
        true => drop(entries.remove(at)),
        false => entries[at].name = None,
    }
}

/// Whether a person who writes this name means this image. With a digest the tag does not count.
fn is_meant(entry: &Entry, name: &Reference) -> bool {
    let Some(own) = &entry.name else {
        return false;
    };
    match name.digest() {
        None => own == name,
        Some(digest) => {
            let is_digest =
                entry.pulled.as_ref() == Some(digest) || entry.digest().is_ok_and(|own| own == *digest);
            own.repository() == name.repository() && is_digest
        }
    }
}

/// What is said where a store has no image with this name or ID.
pub fn missing(text: &str) -> Error {
    let pull = match text.parse::<Reference>() {
        Ok(name) => format!("`coracle pull {}` gets it, and ", name.familiar()),
        Err(_) => String::new(),
    };
    Error::Missing(format!(
        "there is no image '{}' in the store; {pull}`coracle images` lists those that are there",
        shortened(text)
    ))
}
