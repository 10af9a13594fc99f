//! An archive that a guest sends, unpacked on the host: nothing changes but in the directory that it goes to, in which a link leads out.
//!
//! An input is a byte that says how the directory is used, and the archive. Every block of it gets the checksum of a header.
#![no_main]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use coracle_archive::{Policy, Reader, Top, Unpacker};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;
/// Where a header has its checksum (POSIX.1-2017, ustar Interchange Format).
const CHECKSUM: std::ops::Range<usize> = 148..156;

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = std::env::temp_dir().join(format!("coracle-fuzz-archive-{}", std::process::id()));
    fs::create_dir_all(place.join("outside")).unwrap();
    fs::write(place.join("outside/secret"), "kept").unwrap();
    place
});

fuzz_target!(|input: &[u8]| {
    let Some((&how, archive)) = input.split_first() else {
        return;
    };
    let mut archive = archive.to_vec();
    if how & 1 == 0 {
        archive.chunks_exact_mut(BLOCK).for_each(sum);
    }
    let top = match how >> 1 & 3 {
        0 => Top::Keep,
        1 => Top::LeaveOut,
        _ => Top::Rename("renamed".into()),
    };
    let into = PLACE.join("into");
    fs::create_dir(&into).unwrap();
    symlink("../outside", into.join("there")).unwrap();
    let _ = unpack(&archive, &into, top);
    check(&into);
    fs::remove_dir_all(&into).unwrap();
});

/// Makes a block that is not all zeros a header that is whole.
fn sum(block: &mut [u8]) {
    if block.iter().all(|byte| *byte == 0) {
        return;
    }
    block[CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn unpack(archive: &[u8], into: &Path, top: Top) -> io::Result<()> {
    let policy = Policy {
        owners: false,
        is_trusted: false,
    };
    let mut warn = |_: &str| ();
    let mut reader = Reader::new(archive);
    let mut unpacker = Unpacker::new(File::open(into)?.into(), top, policy, &mut warn);
    while let Some(entry) = reader.next_entry()? {
        unpacker.put(entry, &mut reader)?;
    }
    unpacker.finish()
}

fn check(into: &Path) {
    let mut names: Vec<_> = fs::read_dir(&*PLACE).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["into", "outside"]);
    let outside = PLACE.join("outside");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"kept");
    assert_eq!(fs::metadata(outside.join("secret")).unwrap().nlink(), 1);
    for file in fs::read_dir(into).unwrap() {
        let file = file.unwrap();
        let metadata = fs::symlink_metadata(file.path()).unwrap();
        assert_eq!(metadata.mode() & 0o7000, 0, "privileges");
        assert!(metadata.is_file() || metadata.is_dir() || metadata.is_symlink());
        let name = file.file_name();
        let name = name.to_string_lossy();
        assert!(name != ".coracle-cp" && !name.starts_with(".coracle-cp-"), "it is not whole");
    }
}
