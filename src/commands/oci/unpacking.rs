//! What may still be done where something is taken apart that somebody else has made.

use std::io;
use std::path::Path;
use std::sync::Once;

use coracle_images::store::Store;

use crate::confine::{Layer, restrict_reader, restrict_unpacker};

/// Takes from the calling thread, which unpacks a layer, all but the two files between which it unpacks, as far as this host can.
pub fn confine_unpacker(_store: &Path) -> io::Result<()> {
    tell_once(&restrict_unpacker());
    Ok(())
}

/// Takes from the calling thread, and those that it starts, all but the store and the archive or directory that is read, as far as this
/// host can.
pub fn confine_reader(store: &Store, source: Option<&Path>) {
    tell_once(&restrict_reader(store.directory(), source));
}

/// Says what is missing, the first time.
fn tell_once(layers: &[Layer]) {
    static TOLD: Once = Once::new();
    let mut missing = layers.iter().filter(|layer| layer.missing().is_some()).peekable();
    if missing.peek().is_some() {
        TOLD.call_once(|| {
            missing.for_each(|layer| {
                log::warn!("images are unpacked with less confinement than there could be: {layer}")
            });
        });
    }
}
