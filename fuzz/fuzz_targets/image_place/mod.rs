//! Where a target has a qcow2 image, the one file that it may name as its backing file, and its data file: in memory,
//! without a directory that stays behind when the target ends, and that somebody could tidy away while it runs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use coracle_fuzz::MemoryFile;

const BASE: [u8; 8192] = [0xba; 8192];
/// The descriptor of the backing file. The images in the seeds name it, and their own directory is /proc/self/fd.
const BASE_DESCRIPTOR: i32 = 1000;

pub struct Place {
    pub image: PathBuf,
    pub base: PathBuf,
    /// Of the target that has one.
    #[allow(dead_code, reason = "one target has no data file")]
    pub data: PathBuf,
    /// What the paths lead to.
    _files: [MemoryFile; 3],
}

impl Default for Place {
    fn default() -> Self {
        let files = [
            MemoryFile::default(),
            MemoryFile::default().at(BASE_DESCRIPTOR),
            MemoryFile::default(),
        ];
        let [image, base, data] = files.each_ref().map(MemoryFile::path);
        fs::write(&base, BASE).expect("a file in memory is written");
        Self {
            image,
            base,
            data,
            _files: files,
        }
    }
}

impl Place {
    pub fn assert_base_is_as_it_was(&self) {
        let mut base = BASE;
        File::open(&self.base)
            .and_then(|file| file.read_exact_at(&mut base, 0))
            .expect("the base is there");
        assert!(base == BASE, "the base was written");
    }
}
