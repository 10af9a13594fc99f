//! What `coracle inspect` prints of an image.

use coracle_images::store::{Image, Store};
use coracle_images::{Digest, Platform, Reference};
use serde::Serialize;
use serde_json::Value;

use super::{size, store_with};
use crate::commands::Error;

/// An image, with the names that Docker gives its fields.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Known {
    /// The digest of the configuration.
    id: String,
    /// The names with a tag.
    repo_tags: Vec<String>,
    /// Its names with, in the place of a tag, the digest by which a registry has it.
    repo_digests: Vec<String>,
    /// The digest of the manifest in the store.
    manifest: String,
    /// A word of whoever made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    /// When it was made (RFC 3339). None if it does not say.
    created: Option<String>,
    author: Option<String>,
    /// The platform that it is for.
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    os: String,
    /// Bytes of all layers when they are unpacked.
    size: u64,
    /// Bytes of all layers as the registry has them.
    compressed_size: u64,
    /// How it is run, as its configuration has it (OCI image specification, "Properties", `config`).
    config: Value,
    #[serde(rename = "RootFS")]
    root: Root,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Root {
    #[serde(rename = "Type")]
    kind: &'static str,
    /// The digests of the unpacked layers, the lowest first.
    layers: Vec<String>,
    /// Where they are on this host, in the same order.
    files: Vec<String>,
}

/// What is known of the image with this name or ID.
pub fn known(text: &str) -> Result<Known, Error> {
    let store = store_with(text)?;
    of(&store, &store.find(text, &Platform::default())?)
}

fn of(store: &Store, image: &Image) -> Result<Known, Error> {
    let oci = &image.configuration.oci;
    let platform = image.configuration.platform();
    let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
    for entry in store.entries()? {
        let Some(name) = entry
            .name
            .filter(|_| entry.descriptor.digest() == image.entry.descriptor.digest())
        else {
            continue;
        };
        repo_tags.extend(name.tag().map(|_| name.familiar()));
        repo_digests.extend(entry.pulled.map(|digest| name.with_digest(digest).familiar()));
    }
    repo_digests.sort();
    repo_digests.dedup();
    let configuration: Value = serde_json::from_slice(&image.configuration_text).unwrap_or_default();
    let last = oci.history().as_deref().unwrap_or_default().last();
    let layers = &image.configuration.diff_ids;
    Ok(Known {
        id: image.id()?.to_string(),
        repo_tags,
        repo_digests,
        manifest: image.manifest_digest.to_string(),
        comment: last.and_then(|step| step.comment().clone()),
        created: oci.created().clone(),
        author: oci.author().clone(),
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        size: size::whole(store, image)?,
        compressed_size: image.size(),
        config: configuration.get("config").cloned().unwrap_or_default(),
        root: Root {
            kind: "layers",
            layers: layers.iter().map(Digest::to_string).collect(),
            files: layers
                .iter()
                .map(|layer| store.layer_path(layer).to_string_lossy().into_owned())
                .collect(),
        },
    })
}

/// The familiar form of a name, if it is one of an image.
pub fn familiar(text: &str) -> Option<String> {
    text.parse().ok().map(|name: Reference| name.familiar())
}
