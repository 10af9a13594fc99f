//! A qcow2 file that anybody made, and a guest that reads and writes it, from one queue or from two: refused in words, or
//! an I/O error here and there; nothing outside of it changes, and a file that is only to be read stays as it is. In one
//! that is written the header stays as it is, and the tables stay whole and have no data of the guest's in them.
//!
//! An input is steps and the file. The seeds are valid images: a small change of one reaches more code than bytes that are
//! refused at once.
#![no_main]

mod image_place;

use std::fs::{self, File};
use std::path::Path;
use std::sync::LazyLock;
use std::thread;

use coracle::config::{Backing, Cache, Disk};
use coracle::virtio::block::qcow2::Qcow2;
use image_place::Place;
use libfuzzer_sys::fuzz_target;

const STEP: usize = 4;
const STEPS: usize = 16;
const LONGEST: usize = 64 << 10;
/// What the guest writes, over and over.
const MARK: [u8; 16] = *b"a guest's data..";
/// What the data file has at first.
const DATA: [u8; 8192] = [0xda; 8192];
/// The largest clusters have so many bytes. The data file may end where the last one of the disk does.
const CLUSTER_MAX: u64 = 2 << 20;
/// Where the header says where the refcount table is, which may grow.
const REFCOUNT_TABLE: std::ops::Range<usize> = 48..60;

static PLACE: LazyLock<Place> = LazyLock::new(Place::default);

/// How the image is used.
#[derive(Clone, Copy)]
struct Mode {
    ro: bool,
    direct: bool,
    two_queues: bool,
    /// Whether a data file is named.
    data: bool,
}

impl From<u8> for Mode {
    fn from(bits: u8) -> Self {
        Self {
            ro: bits & 1 != 0,
            direct: bits & 2 != 0,
            two_queues: bits & 4 != 0,
            data: bits & 8 != 0,
        }
    }
}

fn open(path: &Path, mode: Mode) -> Option<Qcow2> {
    let file = File::options().read(true).write(!mode.ro).open(path).expect("the file is there");
    let disk = Disk {
        ro: mode.ro,
        cache: if mode.direct { Cache::Direct } else { Cache::Writeback },
        backing: Backing::Named(vec![PLACE.base.clone()]),
        data: mode.data.then(|| PLACE.data.clone()),
        ..Disk::new(path.into())
    };
    Qcow2::open(file, &disk).inspect_err(|error| assert!(error.to_string().ends_with(')'), "no next step: {error}")).ok()
}

/// The first cluster of the image's file, without what may change.
fn header(path: &Path) -> Vec<u8> {
    let mut file = fs::read(path).expect("the file is there");
    let bits = u32::from_be_bytes(*file[20..].first_chunk().expect("it has a header"));
    file.truncate(1 << bits);
    file[REFCOUNT_TABLE].fill(0);
    file
}

fn take_all(image: &Qcow2, steps: &[[u8; STEP]], mode: Mode) {
    let queue = |first| {
        let mut buffer = vec![0; LONGEST];
        let every = 1 + usize::from(mode.two_queues);
        steps.iter().skip(first).step_by(every).for_each(|step| take(image, step, &mut buffer));
    };
    match mode.two_queues {
        false => queue(0),
        true => thread::scope(|scope| {
            let other = scope.spawn(|| queue(1));
            queue(0);
            // Waits for the end of the thread, and not only of its work: what a thread leaves is freed by then.
            other.join().expect("the other queue does not panic");
        }),
    }
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
            for chunk in buffer.chunks_exact_mut(MARK.len()) {
                chunk.copy_from_slice(&MARK);
            }
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
    fs::write(&place.data, DATA).expect("a file in memory is written");
    let mode = Mode::from(steps[0]);
    let Some(mut image) = open(&place.image, mode) else { return };
    let size = image.size();
    let before = (!mode.ro).then(|| (header(&place.image), Qcow2::tables_with(&place.image, &MARK)));
    let steps = steps[1..].as_chunks::<STEP>().0;
    for half in steps.chunks(STEPS / 2) {
        take_all(&image, half, mode);
        drop(image);
        image = open(&place.image, mode).expect("what was opened once is opened again");
    }
    assert_eq!(image.size(), size);
    drop(image);
    if let Some((header_before, with_mark)) = before {
        assert!(header(&place.image) == header_before, "the header was changed");
        for table in Qcow2::tables_with(&place.image, &MARK) {
            assert!(with_mark.contains(&table), "a guest's data is in the table in cluster {table}");
        }
    }
    place.assert_base_is_as_it_was();
    let data = File::open(&place.data).expect("the data file is there");
    let length = data.metadata().expect("it is a file").len();
    let end = size.next_multiple_of(CLUSTER_MAX).max(DATA.len() as u64);
    assert!(length <= end, "data lies behind the end of the disk");
    if mode.ro || !mode.data {
        let data = fs::read(&place.data).expect("the data file is there");
        assert!(data == DATA, "a data file that is not the guest's to write was written");
    }
    if mode.ro {
        assert!(
            fs::read(&place.image).expect("the image is there") == file,
            "what is only read was written"
        );
    }
});
