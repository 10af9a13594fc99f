//! The commands for OCI images, a file each, and what they share.

mod interrupt;
mod obtain;
mod progress;
pub mod pull;

use std::env;
use std::path::PathBuf;

use coracle_images::registry::Options;
use coracle_images::store::Store;

pub use obtain::{PullPolicy, obtain};

use super::Error;

/// The store of this user's images. It is made if it is not there.
fn store() -> Result<Store, Error> {
    Ok(Store::open(directory()?)?)
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

/// How registries are reached.
fn options(is_insecure: bool) -> Options {
    Options {
        is_insecure,
        ..Options::default()
    }
}
