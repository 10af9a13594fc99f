//! Manifests and indexes of a registry.

use oci_spec::image::{Descriptor, ImageManifest, MediaType};
use ureq::http::Method;

use super::http::{Request, whole};
use super::{Base, Client};
use crate::digest::{Digest, Expected};
use crate::error::{Result, invalid};
use crate::image::{Document, MANIFEST_MAX, check_manifest, descriptor, expected, select};
use crate::platform::Platform;
use crate::reference::{DEFAULT_TAG, Reference};

/// Indexes in each other.
const DEPTH_MAX: usize = 4;

/// The manifest of one image.
pub(super) struct Found {
    pub descriptor: Descriptor,
    pub manifest: ImageManifest,
    /// As the registry has it.
    pub bytes: Vec<u8>,
    /// What the reference leads to: the manifest, or an index.
    pub pulled: Digest,
}

impl Client {
    /// Gets the manifest of the image for a platform.
    pub(super) fn manifest(&self, base: &Base, name: &Reference, platform: &Platform) -> Result<Found> {
        let mut wanted = name.digest().map(|digest| Expected {
            digest: digest.clone(),
            size: None,
        });
        let mut pulled = None;
        for _ in 0..DEPTH_MAX {
            let bytes = self.document(base, name, wanted.as_ref())?;
            let digest = match wanted {
                Some(wanted) => wanted.digest,
                None => Digest::of(&bytes),
            };
            let pulled = pulled.get_or_insert_with(|| digest.clone()).clone();
            match Document::parse(&bytes)? {
                Document::Index(index) => wanted = Some(expected(select(&index, platform)?)?),
                Document::Manifest(manifest) => {
                    check_manifest(&manifest)?;
                    let media_type = manifest.media_type().clone().unwrap_or(MediaType::ImageManifest);
                    let size = Some(bytes.len() as u64);
                    return Ok(Found {
                        descriptor: descriptor(media_type, &Expected { digest, size })?,
                        manifest: *manifest,
                        bytes,
                        pulled,
                    });
                }
            }
        }
        Err(invalid(format!(
            "the indexes of {name} lead to each other more than {DEPTH_MAX} times"
        )))
    }

    /// What the registry says the digest of a name's manifest is. Only good to compare with what is there.
    pub(super) fn claimed_digest(&self, base: &Base, name: &Reference) -> Result<Option<Digest>> {
        let path = path(name, None);
        let answer = self.ask(base, &request(Method::HEAD, &path, name))?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let digest = answer
            .headers()
            .get("Docker-Content-Digest")
            .and_then(|digest| digest.to_str().ok());
        Ok(digest.and_then(|digest| digest.parse().ok()))
    }

    /// Gets a manifest or an index, and checks its digest if it was asked for by that.
    fn document(&self, base: &Base, name: &Reference, wanted: Option<&Expected>) -> Result<Vec<u8>> {
        let path = path(name, wanted.map(|wanted| &wanted.digest));
        let bytes = self.attempt(|| {
            let answer = self.ask_once(base, &request(Method::GET, &path, name))?;
            match answer.status().is_success() {
                true => whole(self, base, answer, MANIFEST_MAX),
                false => Err(self.unexpected(base, &format!("image {name}"), answer).into()),
            }
        })?;
        if let Some(wanted) = wanted {
            let mut check = crate::digest::Check::new(wanted.clone());
            check.update(&bytes)?;
            check.finish()?;
        }
        Ok(bytes)
    }
}

fn path(name: &Reference, digest: Option<&Digest>) -> String {
    let which = match (digest.or(name.digest()), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or(DEFAULT_TAG).to_owned(),
    };
    format!("/v2/{}/manifests/{which}", name.path())
}

fn request<'a>(method: Method, path: &'a str, name: &'a Reference) -> Request<'a> {
    Request {
        method,
        path,
        accept: "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                 application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json",
        is_blob: false,
        from: 0,
        repository: Some(name.path()),
    }
}
