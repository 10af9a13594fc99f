//! Where a target puts a qcow2 image, the one file that it may name as its backing file, and its data file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const BASE: [u8; 8192] = [0xba; 8192];

pub struct Place {
    pub image: PathBuf,
    pub base: PathBuf,
    /// Of the target that has one.
    #[allow(dead_code, reason = "one target has no data file")]
    pub data: PathBuf,
}

impl Place {
    /// For the target of this name.
    pub fn new(target: &str) -> Self {
        let directory = PathBuf::from(format!("/dev/shm/coracle-fuzz-{target}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("there is memory for files");
        let place = Self {
            image: directory.join("image"),
            base: directory.join("base"),
            data: directory.join("data"),
        };
        fs::write(&place.base, BASE).expect("a file in memory is written");
        place
    }

    pub fn assert_base_is_as_it_was(&self) {
        let mut base = BASE;
        File::open(&self.base)
            .and_then(|file| file.read_exact_at(&mut base, 0))
            .expect("the base is there");
        assert!(base == BASE, "the base was written");
    }
}
