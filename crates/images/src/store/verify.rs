//! Checks that the store holds what it says.

use std::fs::File;
use std::path::PathBuf;

use super::prune::digest_of;
use super::{BLOBS, Image, LAYERS, Store};
use crate::digest::{Check, Digest, Expected};
use crate::error::{Error, Result};
use crate::image::expected;
use crate::platform::Platform;
use crate::reference::Reference;

/// Something that is not as it should be.
#[derive(Debug)]
pub enum Problem {
    /// A file is not what its name says.
    File { path: PathBuf, why: String },
    /// An image is not whole.
    Image {
        name: Option<Reference>,
        manifest: Digest,
        why: String,
    },
}

impl Store {
    /// Reads everything in the store. `progress` is told how many bytes were read since it was called last.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        for place in [BLOBS, LAYERS] {
            for path in self.files(place)? {
                let checked = match digest_of(&path) {
                    Some(digest) => check(&path, digest, &mut progress),
                    None => Err(crate::error::invalid("its name is no digest")),
                };
                match checked {
                    Ok(()) => {}
                    // Somebody may have removed it since it was listed.
                    Err(_) if !path.exists() => {}
                    Err(why) => problems.push(Problem::File {
                        path,
                        why: why.to_string(),
                    }),
                }
            }
        }
        for entry in self.entries()? {
            let whole = self
                .image(&entry, &Platform::default())
                .and_then(|image| self.check_whole(&image));
            if let Err(why) = whole {
                problems.push(Problem::Image {
                    manifest: entry.digest()?,
                    name: entry.name,
                    why: why.to_string(),
                });
            }
        }
        Ok(problems)
    }

    /// An error if a layer of the image is not there.
    pub(crate) fn check_whole(&self, image: &Image) -> Result<()> {
        for layer in image.manifest.layers() {
            let blob = expected(layer)?;
            if !self.has(&blob) {
                let digest = blob.digest;
                return Err(Error::Missing(format!(
                    "its layer {digest} is not there; pull or load the image again"
                )));
            }
        }
        Ok(())
    }
}

fn check(path: &std::path::Path, digest: Digest, progress: &mut impl FnMut(u64)) -> Result<()> {
    use std::io::Read;
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let mut check = Check::new(Expected { digest, size: None });
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(Error::file("read", path))? {
            0 => return check.finish(),
            count => {
                check.update(&buffer[..count])?;
                progress(count as u64);
            }
        }
    }
}
