//! A qcow2 file that anybody made, and a guest that reads and writes it: refused in words, or an I/O error here and
//! there; nothing outside of it changes, and a file that is only to be read stays as it is.
//!
//! An input is steps and the file: what is changed in a valid image reaches far.
#![no_main]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use coracle::config::{Backing, Disk};
use coracle::virtio::block::qcow2::Qcow2;
use libfuzzer_sys::fuzz_target;

const STEP: usize = 4;
const STEPS: usize = 16;
const LONGEST: usize = 64 << 10;
const BASE: [u8; 8192] = [0xba; 8192];

/// The image and what it may name as its backing file.
struct Place {
    image: PathBuf,
    base: PathBuf,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let directory = PathBuf::from(format!("/dev/shm/coracle-fuzz-qcow2-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("there is memory for files");
    let place = Place {
        image: directory.join("image"),
        base: directory.join("base"),
    };
    fs::write(&place.base, BASE).expect("a file in memory is written");
    place
});

fn open(path: &Path, mode: u8) -> Option<Qcow2> {
    let file = File::options().read(true).write(mode == 0).open(path).expect("the file is there");
    let disk = Disk {
        ro: mode != 0,
        backing: Backing::Named(vec![PLACE.base.clone()]),
        ..Disk::new(path.into())
    };
    Qcow2::open(file, &disk).inspect_err(|error| assert!(error.to_string().ends_with(')'), "no next step: {error}")).ok()
}

fn take(image: &Qcow2, step: &[u8; STEP], buffer: &mut [u8]) {
    let [kind, place, length, data] = step.map(u64::from);
    let size = image.size();
    // From both ends of the disk, where tables begin and end too.
    let offset = match place & 1 {
        0 => (place >> 1) * 512,
        _ => size.saturating_sub((1 + (place >> 1)) * 512),
    };
    let length = (length * 512).min(LONGEST as u64);
    let buffer = &mut buffer[..length as usize];
    let iovec = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: the buffer outlives the calls.
    let _ = match kind % 8 {
        0 | 1 => unsafe { image.read(&[iovec], offset) },
        2..5 => {
            buffer.fill(data as u8);
            unsafe { image.write(&[iovec], offset) }
        }
        5 => image.write_zeroes(offset, length, data & 1 == 0),
        6 => image.discard(offset, length),
        _ => image.flush(),
    };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((steps, file)) = bytes.split_at_checked(1 + STEP * STEPS) else {
        return;
    };
    let place = &*PLACE;
    fs::write(&place.image, file).expect("a file in memory is written");
    let mode = steps[0] % 2;
    let mut buffer = vec![0; LONGEST];
    let Some(mut image) = open(&place.image, mode) else { return };
    let size = image.size();
    for (index, step) in steps[1..].as_chunks::<STEP>().0.iter().enumerate() {
        take(&image, step, &mut buffer);
        if index == STEPS / 2 {
            drop(image);
            match open(&place.image, mode) {
                Some(again) => image = again,
                // What was damaged may have become worse, but only if it was written.
                None => {
                    assert_eq!(mode, 0);
                    return;
                }
            }
        }
    }
    assert!(mode == 0 || image.size() == size);
    drop(image);
    let mut base = BASE;
    File::open(&place.base)
        .and_then(|file| file.read_exact_at(&mut base, 0))
        .expect("the base is there");
    assert!(base == BASE, "the base was written");
    if mode != 0 {
        assert!(
            fs::read(&place.image).expect("the image is there") == file,
            "what is only read was written"
        );
    }
});
