//! Images of an archive that `docker save` has written, by its `manifest.json`.

use oci_spec::image::{Descriptor, ImageManifest, ImageManifestBuilder, MediaType};
use serde::Deserialize;

use super::source::Source;
use super::{Loaded, Loading};
use crate::decompress;
use crate::digest::{Digest, Expected};
use crate::error::{Error, Result, invalid, shortened};
use crate::image::{CONFIGURATION_MAX, Configuration, check_manifest, descriptor};
use crate::reference::Reference;

/// Images of an archive, names of an image, and its layers.
const COUNT_MAX: usize = 1024;

/// An element of `manifest.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    /// A path in the archive.
    pub config: String,
    repo_tags: Option<Vec<String>>,
    /// Paths in the archive, the lowest layer first.
    layers: Option<Vec<String>>,
}

impl DockerImage {
    /// What of its names can be one.
    pub fn names(&self) -> Vec<Reference> {
        self.repo_tags
            .iter()
            .flatten()
            .filter_map(|name| name.parse().ok())
            .collect()
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<Vec<DockerImage>> {
    let wrong = |why: &str| {
        invalid(format!(
            "the archive's manifest.json is damaged: {}",
            shortened(why)
        ))
    };
    let images: Vec<DockerImage> =
        serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
    let length = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    let is_long = |image: &DockerImage| length(&image.repo_tags).max(length(&image.layers)) > COUNT_MAX;
    match images.len() > COUNT_MAX || images.iter().any(is_long) {
        true => Err(wrong("it has more images, names or layers than any archive")),
        false => Ok(images),
    }
}

impl Loading<'_> {
    pub(super) fn docker(&mut self, source: &Source, images: &[DockerImage]) -> Result<Vec<Loaded>> {
        if images.is_empty() {
            return Err(invalid("there is no image in the archive's manifest.json"));
        }
        images
            .iter()
            .map(|image| self.docker_image(source, image))
            .collect()
    }

    fn docker_image(&mut self, source: &Source, image: &DockerImage) -> Result<Loaded> {
        let text = source
            .read(&image.config, CONFIGURATION_MAX)?
            .ok_or_else(|| lacks(&image.config))?;
        let configuration = Configuration::parse(&text)?;
        self.check_platform(&configuration)?;
        let paths = image.layers.as_deref().unwrap_or_default();
        if paths.len() != configuration.diff_ids.len() {
            let (files, layers) = (paths.len(), configuration.diff_ids.len());
            return Err(invalid(format!(
                "the archive has {files} layers of an image that is made of {layers}"
            )));
        }
        let config = self.store.put_bytes(&text, &mut self.lease)?;
        let mut layers = Vec::new();
        for (path, diff_id) in paths.iter().zip(&configuration.diff_ids) {
            layers.push(self.docker_layer(source, path, diff_id)?);
        }
        let manifest = manifest(descriptor(MediaType::ImageConfig, &config)?, layers)?;
        check_manifest(&manifest)?;
        // By way of a value, whose keys are sorted: the same image makes the same bytes.
        let text = serde_json::to_value(&manifest).and_then(|value| serde_json::to_vec(&value));
        let text = text.map_err(|error| invalid(format!("cannot write the image's manifest: {error}")))?;
        let blob = self.store.put_bytes(&text, &mut self.lease)?;
        self.finish(
            &descriptor(MediaType::ImageManifest, &blob)?,
            &manifest,
            image.names(),
        )
    }

    /// Gets a layer. It is a plain tar with the digest that the configuration says, or compressed.
    fn docker_layer(&mut self, source: &Source, path: &str, diff_id: &Digest) -> Result<Descriptor> {
        let known = Expected {
            digest: diff_id.clone(),
            size: None,
        };
        self.lease.add([diff_id])?;
        let blob = match self.store.has(&known) {
            true => known,
            false => source
                .copy(path, None, self.store, &mut self.lease)?
                .ok_or_else(|| lacks(path))?,
        };
        let begin = self.store.begin(&blob.digest)?;
        let media_type = match blob.digest == *diff_id {
            true => MediaType::ImageLayer,
            false if decompress::is_gzip(&begin) => MediaType::ImageLayerGzip,
            false if decompress::is_compressed(&begin) => MediaType::ImageLayerZstd,
            false => {
                let (path, found) = (shortened(path), &blob.digest);
                return Err(invalid(format!(
                    "the archive's layer {path} is damaged or was exchanged: its data have the digest {found} instead of {diff_id}"
                )));
            }
        };
        let size = self.store.size(&blob.digest)?;
        descriptor(
            media_type,
            &Expected {
                size: Some(size),
                ..blob
            },
        )
    }
}

/// The manifest of an image made of these.
pub(super) fn manifest(config: Descriptor, layers: Vec<Descriptor>) -> Result<ImageManifest> {
    let builder = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest);
    let manifest = builder.config(config).layers(layers).build();
    manifest.map_err(|error| invalid(format!("cannot make the image's manifest: {error}")))
}

fn lacks(path: &str) -> Error {
    let path = shortened(path);
    Error::Missing(format!(
        "the archive lacks {path}, which its image needs; make it anew"
    ))
}
