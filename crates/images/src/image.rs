//! Manifests, indexes and configurations (OCI image specification 1.1; Docker's image manifest version 2, schema 2).

use std::collections::HashSet;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use crate::digest::{Digest, Expected};
use crate::error::{Result, invalid, shortened};
use crate::platform::Platform;

/// Bytes of a manifest or an index (OCI distribution specification, "Pushing Manifests").
pub const MANIFEST_MAX: u64 = 4 << 20;
/// Bytes of a configuration.
pub const CONFIGURATION_MAX: u64 = 8 << 20;
/// Layers of an image. Docker makes at most 127.
const LAYERS_MAX: usize = 512;
/// Images of an index.
const IMAGES_MAX: usize = 1024;

pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIGURATION: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// Media types of layers that are no OCI ones.
const DOCKER_LAYERS: [&str; 6] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.docker.container.image.rootfs.diff+x-gtar",
];

/// Where a builder says what a manifest of an index is about, if it is no image.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// What a digest of an image may lead to.
#[derive(Debug, Clone)]
pub enum Document {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

/// Only what tells one kind of document from the other.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index. One that could be taken for both is refused: programs that check it and programs that use it
    /// could disagree.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |why: &str| invalid(format!("this is no manifest of an image: {}", shortened(why)));
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(wrong("it has more than 4 MiB"));
        }
        let kind: Kind = serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
        let media_type = kind.media_type.as_deref();
        if kind.schema_version == 1 || media_type.is_some_and(|name| name.starts_with(DOCKER_SCHEMA_1)) {
            return Err(wrong(
                "it has Docker's schema 1, which is no longer in use; push the image again with a newer Docker",
            ));
        }
        if kind.schema_version != 2 {
            return Err(wrong("its schemaVersion is not 2"));
        }
        let (is_index, is_manifest) = (
            kind.manifests.is_some(),
            kind.layers.is_some() || kind.config.is_some(),
        );
        let is_index = match media_type {
            _ if is_index && is_manifest => {
                return Err(wrong("it has the fields of a manifest and of an index"));
            }
            None => is_index,
            Some(name) if name == DOCKER_INDEX || name == MediaType::ImageIndex.as_ref() => true,
            Some(name) if name == DOCKER_MANIFEST || name == MediaType::ImageManifest.as_ref() => false,
            Some(name) => return Err(wrong(&format!("its media type is {name}"))),
        };
        match is_index {
            true => serde_json::from_slice(bytes).map(|index| Self::Index(Box::new(index))),
            false => serde_json::from_slice(bytes).map(|manifest| Self::Manifest(Box::new(manifest))),
        }
        .map_err(|error| wrong(&error.to_string()))
    }
}

/// What the blob behind a descriptor must be.
pub fn expected(descriptor: &Descriptor) -> Result<Expected> {
    Ok(Expected {
        digest: descriptor.digest().as_ref().parse()?,
        size: Some(descriptor.size()),
    })
}

/// What leads to a blob.
pub(crate) fn descriptor(media_type: MediaType, blob: &Expected) -> Result<Descriptor> {
    let digest = oci_spec::image::Digest::try_from(blob.digest.to_string());
    let digest = digest.map_err(|error| invalid(error.to_string()))?;
    Ok(Descriptor::new(media_type, blob.size.unwrap_or(0), digest))
}

/// The image of an index for a platform. Attestations are none.
pub fn select<'a>(index: &'a ImageIndex, platform: &Platform) -> Result<&'a Descriptor> {
    if index.manifests().len() > IMAGES_MAX {
        return Err(invalid(format!("an index has more than {IMAGES_MAX} images")));
    }
    let images = || index.manifests().iter().filter(|descriptor| is_image(descriptor));
    let matching =
        images().find(|descriptor| Platform::of(descriptor).is_some_and(|other| platform.takes(&other)));
    if let Some(descriptor) = matching {
        return Ok(descriptor);
    }
    // Without platforms the configuration says what the image is for.
    if let (Some(only), None) = (images().next(), images().nth(1))
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let mut there: Vec<_> = images()
        .filter_map(Platform::of)
        .map(|other| other.to_string())
        .collect();
    there.sort();
    there.dedup();
    Err(invalid(match there.is_empty() {
        true => format!("the image is not there for {platform}: its index names no platform"),
        false => format!(
            "the image is not there for {platform}, only for {}",
            shortened(&there.join(", "))
        ),
    }))
}

/// False for what an index has beside images: signatures, bills of materials, attestations.
fn is_image(descriptor: &Descriptor) -> bool {
    let is_unknown = Platform::of(descriptor).is_some_and(|platform| platform.os == "unknown");
    let is_about_another = descriptor
        .annotations()
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(REFERENCE_TYPE));
    let is_manifest = match descriptor.media_type() {
        MediaType::ImageManifest | MediaType::ImageIndex => true,
        other => [DOCKER_MANIFEST, DOCKER_INDEX].contains(&other.as_ref()),
    };
    is_manifest && !is_unknown && !is_about_another
}

/// Checks that a manifest is that of an image that can be run, and not of an artifact of another kind.
pub fn check_manifest(manifest: &ImageManifest) -> Result<()> {
    let configuration = manifest.config();
    match configuration.media_type() {
        MediaType::ImageConfig => {}
        other if other.as_ref() == DOCKER_CONFIGURATION => {}
        other => {
            let kind = manifest.artifact_type().as_ref().unwrap_or(other);
            let kind = shortened(kind.as_ref());
            return Err(invalid(format!(
                "this is no image of a root file system, but an artifact of the type {kind}"
            )));
        }
    }
    if configuration.size() > CONFIGURATION_MAX {
        return Err(invalid("the image's configuration has more than 8 MiB"));
    }
    if manifest.layers().len() > LAYERS_MAX {
        return Err(invalid(format!("the image has more than {LAYERS_MAX} layers")));
    }
    let mut sizes = std::collections::HashMap::new();
    for descriptor in [configuration].into_iter().chain(manifest.layers()) {
        let Expected { digest, .. } = expected(descriptor)?;
        if sizes
            .insert(digest, descriptor.size())
            .is_some_and(|size| size != descriptor.size())
        {
            return Err(invalid("the manifest gives one blob two sizes"));
        }
    }
    for layer in manifest.layers() {
        let media_type = layer.media_type();
        if !is_layer(media_type) {
            let name = shortened(media_type.as_ref());
            return Err(invalid(format!(
                "the image has a layer of the type {name}, which is not understood"
            )));
        }
        if layer.size() > i64::MAX as u64 {
            return Err(invalid("the image has a layer larger than any file can be"));
        }
    }
    Ok(())
}

fn is_layer(media_type: &MediaType) -> bool {
    use MediaType::{
        ImageLayer, ImageLayerGzip, ImageLayerNonDistributable, ImageLayerNonDistributableGzip,
        ImageLayerNonDistributableZstd, ImageLayerZstd,
    };
    match media_type {
        ImageLayer | ImageLayerGzip | ImageLayerZstd => true,
        ImageLayerNonDistributable | ImageLayerNonDistributableGzip | ImageLayerNonDistributableZstd => true,
        other => DOCKER_LAYERS.contains(&other.as_ref()),
    }
}

/// How to run a command in an image to learn whether its service works. Docker's, which is not in OCI's specification.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthCheck {
    /// `CMD` and arguments, `CMD-SHELL` and a line, or `NONE`.
    #[serde(default)]
    pub test: Option<Vec<String>>,
    /// Nanoseconds, like the other times.
    #[serde(default)]
    pub interval: Option<u64>,
    #[serde(default)]
    pub timeout: Option<u64>,
    #[serde(default)]
    pub start_period: Option<u64>,
    #[serde(default)]
    pub retries: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    healthcheck: Option<HealthCheck>,
}

#[derive(Deserialize)]
struct DockerConfiguration {
    config: Option<DockerConfig>,
}

/// What an image says of how it is run, and of which layers it is made.
#[derive(Debug, Clone)]
pub struct Configuration {
    pub oci: ImageConfiguration,
    pub health_check: Option<HealthCheck>,
    /// Of each layer's plain tar, the lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Configuration {
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |why: &str| {
            invalid(format!(
                "the image's configuration makes no sense: {}",
                shortened(why)
            ))
        };
        if bytes.len() as u64 > CONFIGURATION_MAX {
            return Err(wrong("it has more than 8 MiB"));
        }
        let oci: ImageConfiguration =
            serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
        let docker: DockerConfiguration =
            serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
        if oci.rootfs().typ() != "layers" {
            return Err(wrong("its root file system is not made of layers"));
        }
        let diff_ids = oci
            .rootfs()
            .diff_ids()
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_>>();
        Ok(Self {
            diff_ids: diff_ids.map_err(|error| wrong(&error.to_string()))?,
            health_check: docker.config.and_then(|config| config.healthcheck),
            oci,
        })
    }

    pub fn platform(&self) -> Platform {
        Platform {
            os: self.oci.os().to_string(),
            architecture: self.oci.architecture().to_string(),
            variant: self.oci.variant().clone(),
        }
    }

    /// Checks that manifest and configuration are of one image.
    pub fn check(&self, manifest: &ImageManifest) -> Result<()> {
        let (blobs, tars) = (manifest.layers().len(), self.diff_ids.len());
        match blobs == tars {
            true => Ok(()),
            false => Err(invalid(format!(
                "the image's manifest has {blobs} layers, and its configuration {tars}"
            ))),
        }
    }

    /// The name of the root file system that all layers make (OCI image specification, "Layer ChainID"). None without layers.
    pub fn chain_id(&self) -> Option<Digest> {
        let (first, rest) = self.diff_ids.split_first()?;
        Some(rest.iter().fold(first.clone(), |chain, layer| {
            Digest::of(format!("{chain} {layer}").as_bytes())
        }))
    }
}

/// The blobs of an image beside its manifest, each once.
pub fn blobs(manifest: &ImageManifest) -> Result<Vec<Expected>> {
    let mut seen = HashSet::new();
    let all = [manifest.config()]
        .into_iter()
        .chain(manifest.layers())
        .map(expected);
    all.filter(|blob| {
        blob.as_ref()
            .map_or(true, |blob| seen.insert(blob.digest.clone()))
    })
    .collect()
}

#[cfg(test)]
#[path = "image_test.rs"]
mod tests;
