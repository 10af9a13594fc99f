//! Images of an OCI layout.

use oci_spec::image::{Descriptor, ImageManifest};

use super::docker::DockerImage;
use super::source::Source;
use super::{Loaded, Loading};
use crate::digest::Expected;
use crate::error::{Error, Result, invalid};
use crate::image::{
    CONFIGURATION_MAX, Configuration, Document, MANIFEST_MAX, blobs, check_manifest, expected, select,
};
use crate::platform::Platform;
use crate::reference::{DEFAULT_TAG, Reference};
use crate::store::{REF_NAME, name_of, parse_index};

/// Indexes in each other.
const DEPTH_MAX: usize = 4;
/// Images of an archive.
const IMAGES_MAX: usize = 1024;

impl Loading<'_> {
    /// `list` is what Docker has in the same archive beside the layout.
    pub(super) fn layout(
        &mut self,
        source: &Source,
        index: &[u8],
        list: &[DockerImage],
    ) -> Result<Vec<Loaded>> {
        let index = parse_index(index)
            .map_err(|why| invalid(format!("the archive's index.json is damaged: {why}")))?;
        if index.manifests().len() > IMAGES_MAX {
            return Err(invalid(format!("the archive has more than {IMAGES_MAX} images")));
        }
        let mut loaded: Vec<Loaded> = Vec::new();
        let mut last = invalid("there is no image in the archive's index.json");
        for descriptor in index.manifests() {
            let other = Platform::of(descriptor).filter(|other| !self.platform.takes(other));
            if let Some(other) = other {
                last = invalid(format!(
                    "the archive's image is for {other}, and not for {}",
                    self.platform
                ));
                continue;
            }
            match self.image(source, descriptor, list) {
                Ok(image) => loaded.push(image),
                // Signatures and the like may stand beside the image.
                Err(error) if index.manifests().len() > 1 && matches!(error, Error::Invalid(_)) => {
                    last = error
                }
                Err(error) => return Err(error),
            }
        }
        match loaded.is_empty() {
            true => Err(last),
            false => Ok(loaded),
        }
    }

    fn image(&mut self, source: &Source, descriptor: &Descriptor, list: &[DockerImage]) -> Result<Loaded> {
        let mut found = descriptor.clone();
        let manifest = self.manifest(source, &mut found)?;
        check_manifest(&manifest)?;
        let configuration = self.blob(source, &expected(manifest.config())?)?;
        let configuration = Configuration::parse(&self.store.read(&configuration, CONFIGURATION_MAX)?)?;
        configuration.check(&manifest)?;
        self.check_platform(&configuration)?;
        for blob in blobs(&manifest)? {
            self.blob(source, &blob)?;
        }
        let mut names: Vec<_> = name(descriptor).into_iter().collect();
        let id = expected(manifest.config())?.digest;
        for other in list
            .iter()
            .filter(|other| other.config == path(&id))
            .flat_map(DockerImage::names)
        {
            if !names.contains(&other) {
                names.push(other);
            }
        }
        // Only what says where the manifest is.
        let plain = Descriptor::new(found.media_type().clone(), found.size(), found.digest().clone());
        self.finish(&plain, &manifest, names)
    }

    /// Follows indexes to the manifest for the platform, and leaves its descriptor in `descriptor`.
    fn manifest(&mut self, source: &Source, descriptor: &mut Descriptor) -> Result<ImageManifest> {
        for _ in 0..DEPTH_MAX {
            let blob = self.blob(source, &expected(descriptor)?)?;
            match Document::parse(&self.store.read(&blob, MANIFEST_MAX)?)? {
                Document::Manifest(manifest) => return Ok(*manifest),
                Document::Index(index) => *descriptor = select(&index, self.platform)?.clone(),
            }
        }
        Err(invalid(format!(
            "the image's indexes lead to each other more than {DEPTH_MAX} times"
        )))
    }

    fn blob(&mut self, source: &Source, blob: &Expected) -> Result<Expected> {
        let path = path(&blob.digest);
        let copied = source.copy(&path, Some(blob), self.store, &mut self.lease)?;
        copied.ok_or_else(|| {
            Error::Missing(format!(
                "the archive lacks {path}, which its image needs; make it anew"
            ))
        })
    }
}

fn path(digest: &crate::Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The name of an image in a layout.
fn name(descriptor: &Descriptor) -> Option<Reference> {
    // Docker and others write only the tag here, and the name elsewhere.
    let short = descriptor
        .annotations()
        .as_ref()
        .and_then(|annotations| annotations.get(REF_NAME));
    let name = name_of(descriptor)?;
    let is_tag_only =
        short.is_some_and(|short| short == DEFAULT_TAG) && name.familiar_repository() == DEFAULT_TAG;
    (!is_tag_only).then_some(name)
}
