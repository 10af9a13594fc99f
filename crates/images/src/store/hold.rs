//! What a running guest uses.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::{Image, Store, lock};
use crate::erofs;
use crate::error::{Error, Result, invalid};

/// The files of an image, open to read: nobody removes them from the store while one process holds this.
#[derive(Debug)]
pub struct Hold {
    /// Locked, which keeps the image, and so what the image leads to. The other files may be given to others, who may have them open
    /// for longer.
    _manifest: File,
    /// The plain tars, the lowest first.
    pub layers: Vec<File>,
    /// The metadata of the root file system, if they are there.
    pub root: Option<File>,
}

impl Store {
    /// Holds an image for a guest. Its layers must be unpacked ([`Store::unpack`]).
    pub fn hold(&self, image: &Image) -> Result<Hold> {
        let missing =
            |what: &str| Error::Missing(format!("{what} is no longer in the store; repeat the command"));
        // The manifest comes first: after that, the image is not removed.
        let manifest = lock::shared(&self.blob_path(&image.manifest_digest))?;
        let manifest = manifest.ok_or_else(|| missing("the image's manifest"))?;
        let open = |path: &Path| match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some).map_err(Error::file("open", path)),
        };
        let layers = image.configuration.diff_ids.iter().map(|diff_id| {
            let layer = open(&self.layer_path(diff_id))?;
            layer.ok_or_else(|| missing(&format!("the layer {diff_id}")))
        });
        let layers = layers.collect::<Result<_>>()?;
        let root = match image.configuration.chain_id() {
            Some(chain_id) => {
                let path = self.root_path(&chain_id);
                let root = open(&path)?;
                if root.as_ref().is_some_and(|root| !erofs::begins(root)) {
                    let path = path.display();
                    return Err(invalid(format!(
                        "the image's root file system {path} is damaged: remove the file, and repeat the command, which makes it anew"
                    )));
                }
                root
            }
            None => None,
        };
        Ok(Hold {
            _manifest: manifest,
            layers,
            root,
        })
    }

    /// True if a guest holds the image.
    pub(super) fn is_held(&self, manifest: &crate::Digest) -> Result<bool> {
        let path = self.blob_path(manifest);
        Ok(path.exists() && lock::try_exclusive(&path)?.is_none())
    }
}
