//! Manifests, indexes, configurations and a layout's list of images, as a registry or an archive gives them.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use coracle_images::Platform;
use coracle_images::image::{Configuration, Document, blobs, check_manifest, expected, select};
use coracle_images::store::Store;
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<(PathBuf, Store)> = LazyLock::new(|| {
    let place = coracle_fuzz::scratch_directory("manifest");
    let store = Store::open(&place).unwrap();
    (place, store)
});

fuzz_target!(|bytes: &[u8]| {
    match Document::parse(bytes) {
        Ok(Document::Index(index)) => {
            if let Ok(image) = select(&index, &Platform::default()) {
                assert!(index.manifests().contains(image));
                let _ = expected(image);
            }
        }
        Ok(Document::Manifest(manifest)) => {
            if check_manifest(&manifest).is_ok() {
                let blobs = blobs(&manifest).unwrap();
                assert!(!blobs.is_empty() && blobs.len() <= 1 + manifest.layers().len());
            }
        }
        Err(_) => {}
    }
    if let Ok(configuration) = Configuration::parse(bytes) {
        assert_eq!(
            configuration.chain_id().is_some(),
            !configuration.diff_ids.is_empty()
        );
        let _ = configuration.platform().to_string();
    }
    let (place, store) = &*PLACE;
    fs::write(place.join("index.json"), bytes).unwrap();
    for entry in store.entries().unwrap_or_default() {
        if let Some(name) = &entry.name {
            assert_eq!(name.to_string().parse().ok().as_ref(), Some(name));
        }
        assert!(
            store.image(&entry, &Platform::default()).is_err(),
            "there is nothing in the store"
        );
    }
    let _ = store.find("a", &Platform::default());
});
