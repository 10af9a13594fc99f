//! The commands for OCI images, a file each, and what they share.

mod change;
mod created;
pub mod history;
pub mod images;
pub mod import;
mod interrupt;
pub mod known;
pub mod load;
pub mod login;
pub mod logout;
mod obtain;
mod progress;
pub mod pull;
mod ready;
pub mod rmi;
pub mod save;
mod secret;
mod size;
pub mod tag;
mod unpacking;

use std::env;
use std::path::PathBuf;

use coracle_images::DEFAULT_HOST;
use coracle_images::credentials::Credentials;
use coracle_images::registry::Options;
use coracle_images::store::{Pruned, Store, missing};

pub use obtain::{PullPolicy, obtain};

use super::Error;

/// The store of this user's images. It is made if it is not there.
fn store() -> Result<Store, Error> {
    Ok(Store::open(directory()?)?.confined(unpacking::confine_unpacker))
}

/// The store, if there is one.
fn existing() -> Result<Option<Store>, Error> {
    let store = Store::existing(directory()?);
    Ok(store.map(|store| store.confined(unpacking::confine_unpacker)))
}

/// The store, to look for an image in it: an error if there is none, as if the image alone was missing.
fn store_with(image: &str) -> Result<Store, Error> {
    Ok(existing()?.ok_or_else(|| missing(image))?)
}

/// Where it is (XDG Base Directory Specification).
fn directory() -> Result<PathBuf, Error> {
    let absolute = |name| {
        let path = env::var_os(name).map(PathBuf::from);
        // A relative one is to be ignored.
        path.filter(|path| path.is_absolute())
    };
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let data = data.ok_or_else(|| {
        Error::Command("there is no place for images: set HOME or XDG_DATA_HOME to a directory".into())
    })?;
    Ok(data.join("coracle/images"))
}

/// Removes what no image needs. None if there is no store.
pub fn prune() -> Result<Option<Pruned>, Error> {
    Ok(existing()?.map(|store| store.prune()).transpose()?)
}

/// How registries are reached.
fn options(is_insecure: bool) -> Options {
    Options {
        is_insecure,
        ..Options::default()
    }
}

/// What registries are shown, as the environment says where that is kept.
fn credentials() -> Credentials {
    Credentials::from_environment(|variable| env::var_os(variable))
}

/// The registry that a person means by a host, or by a URL, as some write it.
fn server(text: Option<&str>) -> &str {
    let text = text.unwrap_or(DEFAULT_HOST);
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    match host.split('/').next().unwrap_or(host) {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_HOST,
        host => host,
    }
}

/// An ID without the name of its hash function and with its first digits only, as people write it, or whole.
fn short_id(id: &str, is_whole: bool) -> &str {
    const DIGITS: usize = 12;
    match id.split_once(':') {
        Some((_, hex)) if !is_whole => hex.get(..DIGITS).unwrap_or(hex),
        _ => id,
    }
}
