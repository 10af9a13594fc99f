//! Sizes of images.

use std::fs;

use coracle_images::Digest;
use coracle_images::image::expected;
use coracle_images::store::{Image, Store};

use crate::commands::Error;

/// Bytes of each layer when it is unpacked, the lowest first. Of one that is not unpacked, of what there is.
pub fn layers(store: &Store, image: &Image) -> Result<Vec<u64>, Error> {
    let layers = image.manifest.layers().iter();
    layers
        .zip(&image.configuration.diff_ids)
        .map(|(blob, diff_id)| Ok(layer(store, diff_id).unwrap_or(expected(blob)?.size.unwrap_or(0))))
        .collect()
}

/// Bytes of all layers when they are unpacked.
pub fn whole(store: &Store, image: &Image) -> Result<u64, Error> {
    Ok(layers(store, image)?
        .into_iter()
        .fold(0, |sum, size| sum.saturating_add(size)))
}

fn layer(store: &Store, diff_id: &Digest) -> Option<u64> {
    Some(fs::metadata(store.layer_path(diff_id)).ok()?.len())
}
