//! An archive with images, loaded into a store from a file and from a stream: what is in the store is whole, and nothing is left over.
//!
//! An input is a byte that says whether headers get their checksums, and the archive.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use coracle_images::Platform;
use coracle_images::load::{load, load_stream};
use coracle_images::store::Store;
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;
/// Where a header has its checksum (POSIX.1-2017, ustar Interchange Format).
const CHECKSUM: std::ops::Range<usize> = 148..156;
const MAGIC: std::ops::Range<usize> = 257..262;

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| coracle_fuzz::scratch_directory("docker-archive"));

fuzz_target!(|input: &[u8]| {
    let Some((&how, archive)) = input.split_first() else {
        return;
    };
    let mut archive = archive.to_vec();
    if how & 1 == 0 {
        archive
            .chunks_exact_mut(BLOCK)
            .filter(|block| &block[MAGIC] == b"ustar")
            .for_each(sum);
    }
    let file = PLACE.join("archive");
    fs::write(&file, &archive).unwrap();
    let names = [PLACE.join("one"), PLACE.join("two")].map(|directory| {
        let store = Store::open(&directory).unwrap();
        let loaded = match directory.ends_with("one") {
            true => load(&file, &store, &Platform::default()),
            false => load_stream(&archive[..], &store, &Platform::default()),
        };
        check(&store, loaded.is_ok());
        let names = store.entries().unwrap();
        fs::remove_dir_all(&directory).unwrap();
        (loaded.is_ok(), names)
    });
    // A stream can be read where a file has less than it says.
    if names[0].0 && names[1].0 {
        assert_eq!(names[0].1, names[1].1);
    }
    assert_eq!(
        fs::read_dir(&*PLACE).unwrap().count(),
        1,
        "something is beside the stores"
    );
});

/// Makes a header's checksum right.
fn sum(block: &mut [u8]) {
    block[CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn check(store: &Store, is_loaded: bool) {
    let problems = store.verify(|_| ()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let entries = store.entries().unwrap();
    // Images of one archive may take each other's names.
    assert!(is_loaded || entries.len() < 8);
    for entry in &entries {
        let image = store.image(entry, &Platform::default()).unwrap();
        for diff_id in &image.configuration.diff_ids {
            assert!(store.layer_path(diff_id).is_file());
        }
    }
    let count = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!(count(&store.directory().join("partial")), 0);
    if entries.is_empty() {
        assert_eq!(count(&store.directory().join("blobs/sha256")), 0);
    }
}
