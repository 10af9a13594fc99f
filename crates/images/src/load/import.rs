//! A root file system becomes an image of one layer.

use std::io::Read;
use std::time::SystemTime;

use coracle_archive::Reader;
use oci_spec::image::{Config, MediaType};
use serde_json::json;

use super::docker::manifest;
use super::source::unreadable;
use crate::decompress::decompress;
use crate::error::{Result, invalid};
use crate::image::descriptor;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Entry, Image, Store};

/// What is said of an image that is imported.
#[derive(Debug, Clone)]
pub struct Import<'a> {
    pub name: Option<&'a Reference>,
    pub platform: Platform,
    /// How it is run.
    pub config: Option<Config>,
    pub created: SystemTime,
    /// Where it comes from, for its history.
    pub comment: String,
}

/// Makes an image of a tar of a root file system, which may be compressed.
pub fn import(tar: impl Read + Send, store: &Store, how: &Import) -> Result<Image> {
    let mut lease = store.lease()?;
    let mut tar = decompress(tar).map_err(|error| unreadable(&error))?;
    let mut spool = store.spool()?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match tar.read(&mut buffer).map_err(|error| unreadable(&error))? {
            0 => break,
            count => spool.put(&buffer[..count])?,
        }
    }
    let layer = spool.finish(&mut lease)?;
    let first = Reader::new(store.open_blob(&layer.digest)?).next_entry();
    let discarded = match first {
        Ok(Some(_)) => None,
        Ok(None) => Some(invalid("the archive is empty; give a tar of a root file system")),
        Err(error) => Some(unreadable(&error)),
    };
    if let Some(error) = discarded {
        lease.give_up()?;
        return Err(error);
    }
    let created = humantime::format_rfc3339_seconds(how.created).to_string();
    let configuration = json!({
        "architecture": how.platform.architecture,
        "os": how.platform.os,
        "variant": how.platform.variant,
        "created": created,
        "config": how.config.clone().unwrap_or_default(),
        "rootfs": { "type": "layers", "diff_ids": [layer.digest.to_string()] },
        "history": [{ "created": created, "comment": how.comment }],
    });
    let bytes = |value: &serde_json::Value| {
        let bytes = serde_json::to_vec(value);
        bytes.map_err(|error| invalid(format!("cannot write what is said of the image: {error}")))
    };
    let config = store.put_bytes(&bytes(&configuration)?, &mut lease)?;
    let layers = vec![descriptor(MediaType::ImageLayer, &layer)?];
    let manifest = manifest(descriptor(MediaType::ImageConfig, &config)?, layers)?;
    let value = serde_json::to_value(&manifest).map_err(|error| invalid(error.to_string()))?;
    let blob = store.put_bytes(&bytes(&value)?, &mut lease)?;
    let entry = Entry::new(
        descriptor(MediaType::ImageManifest, &blob)?,
        how.name.cloned(),
        None,
    );
    let image = store.image(&entry, &how.platform)?;
    store.unpack(&image)?;
    store.put(&entry.descriptor, how.name, None)?;
    Ok(image)
}
