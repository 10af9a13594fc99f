//! What the threads may do that unpack layers.

use std::io;
use std::path::Path;
use std::sync::Once;

use crate::confine::{Layer, restrict_unpacker};

/// Takes from the calling thread all but the two files between which it unpacks, as far as this host can. Says once what is missing.
pub fn confine(_store: &Path) -> io::Result<()> {
    static TOLD: Once = Once::new();
    let layers = restrict_unpacker();
    let missing: Vec<_> = layers.iter().filter(|layer| layer.missing().is_some()).collect();
    if !missing.is_empty() {
        TOLD.call_once(|| missing.into_iter().for_each(tell));
    }
    Ok(())
}

fn tell(layer: &Layer) {
    log::warn!("this host cannot confine the threads that unpack images in every way: {layer}");
}
