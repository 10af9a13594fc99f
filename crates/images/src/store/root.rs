//! The metadata of an image's root file system, made of the plain tars of its layers.

use std::fs::File;
use std::io;
use std::thread;

use super::{Image, Store};
use crate::digest::Digest;
use crate::erofs;
use crate::error::{Error, Result, invalid};
use crate::tree::Tree;

impl Store {
    /// Makes the metadata of an image's root file system, if they are not there. Its layers must be unpacked ([`Store::unpack`]). What
    /// the tars say is read by a thread that opens nothing and is confined as those that unpack are.
    pub fn make_root_of(&self, image: &Image) -> Result<()> {
        let chain_id = image.configuration.chain_id();
        let chain_id =
            chain_id.ok_or_else(|| invalid("the image has no layers, so nothing in it can be run"))?;
        if self.root_path(&chain_id).exists() {
            return Ok(());
        }
        let open = |layer| {
            let path = self.layer_path(layer);
            File::open(&path).map_err(Error::file("read the layer", &path))
        };
        let mut tars = image
            .configuration
            .diff_ids
            .iter()
            .map(open)
            .collect::<Result<Vec<_>>>()?;
        self.make_root(&chain_id, |out| {
            let make = || {
                if let Some(confine) = self.confine {
                    confine(&self.directory)?;
                }
                write(&mut tars, &chain_id, out)
            };
            let made = thread::scope(|scope| {
                let thread = thread::Builder::new().spawn_scoped(scope, make)?;
                let panicked = |_| Err(io::Error::other("its layers could not be read"));
                thread.join().unwrap_or_else(panicked)
            });
            made.map_err(|why| match why.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    invalid(format!("no root file system can be made of the image: {why}"))
                }
                _ => Error::file("make a root file system in", &self.directory)(why),
            })
        })
    }
}

fn write(tars: &mut [File], chain_id: &Digest, out: &File) -> io::Result<()> {
    let mut tree = Tree::new();
    tars.iter().try_for_each(|tar| tree.add_layer(tar))?;
    erofs::write(&tree, tars, uuid(chain_id), out).map(drop)
}

/// The same for the same layers, and for no others.
fn uuid(chain_id: &Digest) -> [u8; 16] {
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default() as u8;
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(chain_id.hex().as_bytes().chunks_exact(2)) {
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    uuid
}
