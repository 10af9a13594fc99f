//! Images as an archive: an OCI layout that Docker and podman load as well.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use coracle_archive::{Entry as Member, Kind, Time, Writer};
use serde_json::{Value, json};

use crate::digest::{CheckedReader, Digest, Expected};
use crate::error::{Error, Result, invalid};
use crate::image::{blobs, expected};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{FULL_NAME, Image, REF_NAME, Store};

/// One image of the archive, with the names that it was asked for by.
struct Saved {
    image: Image,
    names: Vec<Reference>,
}

/// Writes images, each by a name or an ID, to an archive. The same images make the same bytes. Each blob is checked on its way.
pub fn save(store: &Store, names: &[impl AsRef<str>], archive: impl Write) -> Result<()> {
    let mut saved: Vec<Saved> = Vec::new();
    let mut lease = store.lease()?;
    for text in names {
        let image = store.find(text.as_ref(), &Platform::default())?;
        let name = image
            .entry
            .name
            .clone()
            .filter(|_| text.as_ref().parse::<Reference>().is_ok());
        let name = name.filter(|name| {
            text.as_ref()
                .parse()
                .is_ok_and(|meant: Reference| meant.repository() == name.repository())
        });
        match saved
            .iter_mut()
            .find(|other| other.image.manifest_digest == image.manifest_digest)
        {
            Some(other) => other
                .names
                .extend(name.filter(|name| !other.names.contains(name))),
            None => saved.push(Saved {
                image,
                names: name.into_iter().collect(),
            }),
        }
    }
    saved.sort_by_key(|saved| saved.image.manifest_digest.clone());
    let mut all = BTreeMap::new();
    for Saved { image, .. } in &saved {
        let manifest = expected(&image.descriptor)?;
        for blob in blobs(&image.manifest)?.into_iter().chain([manifest]) {
            all.insert(path(&blob.digest), blob);
        }
    }
    lease.add(all.values().map(|blob| &blob.digest))?;
    let mut writer = Writer::new(archive);
    for (path, blob) in &all {
        put_blob(&mut writer, path, store, blob)?;
    }
    put(&mut writer, "index.json", &index(&saved))?;
    put(&mut writer, "manifest.json", &list(&saved)?)?;
    put(
        &mut writer,
        "oci-layout",
        &json!({ "imageLayoutVersion": "1.0.0" }),
    )?;
    writer.finish().map_err(unwritable)?;
    Ok(())
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn index(saved: &[Saved]) -> Value {
    let mut manifests = Vec::new();
    for Saved { image, names } in saved {
        let descriptor = json!(image.descriptor);
        if names.is_empty() {
            manifests.push(descriptor.clone());
        }
        for name in names {
            let mut named = descriptor.clone();
            let short = name.tag().unwrap_or_default();
            named["annotations"] = json!({ FULL_NAME: name.to_string(), REF_NAME: short });
            manifests.push(named);
        }
    }
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    })
}

/// Docker's `manifest.json`.
fn list(saved: &[Saved]) -> Result<Value> {
    let images = saved.iter().map(|Saved { image, names }| {
        let layers = image
            .manifest
            .layers()
            .iter()
            .map(|layer| Ok(path(&expected(layer)?.digest)));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let tags: Vec<_> = names
            .iter()
            .filter(|name| name.tag().is_some())
            .map(Reference::familiar)
            .collect();
        Ok(json!({ "Config": path(&image.id()?), "RepoTags": tags, "Layers": layers }))
    });
    images.collect()
}

fn put(writer: &mut Writer<impl Write>, path: &str, value: &Value) -> Result<()> {
    let bytes =
        serde_json::to_vec(value).map_err(|error| invalid(format!("cannot write {path}: {error}")))?;
    writer
        .entry(&member(path, bytes.len() as u64))
        .map_err(unwritable)?;
    writer.data(&bytes).map_err(unwritable)
}

fn put_blob(writer: &mut Writer<impl Write>, path: &str, store: &Store, blob: &Expected) -> Result<()> {
    let file = store.open_blob(&blob.digest)?;
    writer
        .entry(&member(path, blob.size.unwrap_or(0)))
        .map_err(unwritable)?;
    let mut reader = CheckedReader::new(file, blob.clone());
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = reader
            .read(&mut buffer)
            .map_err(Error::reading(&store.blob_path(&blob.digest)))?;
        match count {
            0 => return Ok(()),
            count => writer.data(&buffer[..count]).map_err(unwritable)?,
        }
    }
}

fn member(path: &str, size: u64) -> Member {
    Member {
        path: path.into(),
        kind: Kind::File { size, pieces: None },
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: Time::default(),
    }
}

fn unwritable(error: std::io::Error) -> Error {
    invalid(format!("cannot write the archive: {error}"))
}
