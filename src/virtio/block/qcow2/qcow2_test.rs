use std::fs;
use std::thread;

use proptest::prelude::*;

use super::test_image::*;
use super::*;

#[path = "killed_test.rs"]
mod killed;

/// Not a whole number of any clusters but the smallest.
const SIZE: usize = 600 * 512 + 64 * 1024;

fn pattern(seed: u8) -> Vec<u8> {
    let byte = |index| (index / 512 * 7 + index % 251) as u8 ^ seed;
    let mut pattern: Vec<u8> = (0..SIZE).map(byte).collect();
    pattern[100 * 512..200 * 512].fill(0);
    pattern
}

/// An image, what it reads as, and whether a discarded cluster reads as zeroes.
type Case = fn(&Images) -> (PathBuf, Qcow2, Vec<u8>);

fn empty(images: &Images, options: &str) -> (PathBuf, Qcow2, Vec<u8>) {
    let path = images.create("image", options, SIZE as u64);
    let image = open(&path);
    (path, image, vec![0; SIZE])
}

const CASES: [(&str, Case); 14] = [
    ("version 3", |images| empty(images, "compat=1.1")),
    ("version 2", |images| {
        empty(images, "compat=0.10,cluster_size=4096")
    }),
    ("smallest clusters", |images| empty(images, "cluster_size=512")),
    ("largest clusters", |images| empty(images, "cluster_size=2M")),
    ("one-bit counts", |images| {
        empty(images, "cluster_size=512,refcount_bits=1")
    }),
    ("64-bit counts", |images| {
        empty(images, "cluster_size=512,refcount_bits=64")
    }),
    ("data with a place of its own from the start", |images| {
        empty(images, "cluster_size=4096,preallocation=metadata")
    }),
    ("data in a data file", |images| {
        let options = images.data_outside("image", "cluster_size=4096");
        empty(images, &options)
    }),
    ("data in a data file, largest clusters", |images| {
        let options = images.data_outside("image", "cluster_size=2M");
        empty(images, &options)
    }),
    ("data in a raw data file", |images| {
        let options = images.data_outside("image", "cluster_size=512,data_file_raw=on");
        empty(images, &options)
    }),
    ("data in a data file, on a shorter raw file", |images| {
        let mut model = pattern(4);
        model.truncate(301 * 512);
        images.raw("base", &model);
        model.resize(SIZE, 0);
        let options = images.data_outside("image", "cluster_size=4096");
        let path = images.on("image", &options, "base", "raw", SIZE as u64);
        let image = open(&path);
        (path, image, model)
    }),
    ("compressed", |images| {
        let model = pattern(1);
        let path = images.compress("image", "cluster_size=4096", &model);
        let image = open(&path);
        (path, image, model)
    }),
    ("on a shorter raw file", |images| {
        let mut model = pattern(2);
        model.truncate(301 * 512);
        images.raw("base", &model);
        model.resize(SIZE, 0);
        let path = images.on("image", "cluster_size=4096", "base", "raw", SIZE as u64);
        let image = open(&path);
        (path, image, model)
    }),
    ("on a compressed image on a raw one", |images| {
        let model = pattern(3);
        images.compress("base", "cluster_size=1024", &model);
        images.on("middle", "compat=0.10", "base", "qcow2", SIZE as u64);
        let path = images.on("image", "cluster_size=8192", "middle", "qcow2", SIZE as u64);
        let image = open(&path);
        (path, image, model)
    }),
];

#[derive(Clone, Debug)]
enum Operation {
    Read,
    Write(u8),
    Zeroes { may_unmap: bool },
    Discard,
    Flush,
    Reopen,
}

fn operation() -> impl Strategy<Value = (Operation, usize, usize)> {
    let operation = prop_oneof![
        3 => Just(Operation::Read),
        6 => any::<u8>().prop_map(Operation::Write),
        2 => any::<bool>().prop_map(|may_unmap| Operation::Zeroes { may_unmap }),
        2 => Just(Operation::Discard),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Reopen),
    ];
    let sectors = SIZE / 512;
    let range = prop_oneof![
        4 => (0..sectors, 1..20usize),
        2 => (0..sectors, 1..300usize),
        1 => (0..sectors).prop_map(move |sector| (sector, sectors)),
    ];
    (operation, range).prop_map(move |(operation, (sector, length))| {
        let length = length.min(sectors - sector);
        (operation, sector * 512, length * 512)
    })
}

/// Writes what lies in `range` as the image now has it into the model: discarded sectors are as they were or zero.
fn take_discarded(image: &Qcow2, model: &mut [u8], offset: usize, length: usize) {
    let now = image.get(offset, length);
    let before = &mut model[offset..offset + length];
    for (before, now) in before.chunks_mut(512).zip(now.chunks(512)) {
        assert!(
            now == before || now.iter().all(|byte| *byte == 0),
            "a discarded sector has something new"
        );
        before.copy_from_slice(now);
    }
}

fn run(case: &(&str, Case), operations: &[(Operation, usize, usize)]) {
    let images = Images::new();
    let (path, mut image, mut model) = case.1(&images);
    assert_eq!(image.size(), SIZE as u64);
    let base = fs::read(images.path("base")).ok();
    for (operation, offset, length) in operations {
        let (offset, length) = (*offset, *length);
        let range = offset..offset + length;
        match operation {
            Operation::Read => assert!(
                image.get(offset, length) == model[range],
                "{}: {offset} {length}",
                case.0
            ),
            Operation::Write(seed) => {
                model[range.clone()].copy_from_slice(&pattern(*seed)[range.clone()]);
                image.put(offset, &model[range]).unwrap();
            }
            Operation::Zeroes { may_unmap } => {
                model[range].fill(0);
                image
                    .write_zeroes(offset as u64, length as u64, *may_unmap)
                    .unwrap();
            }
            Operation::Discard => {
                image.discard(offset as u64, length as u64).unwrap();
                take_discarded(&image, &mut model, offset, length);
            }
            Operation::Flush => image.flush().unwrap(),
            Operation::Reopen => {
                drop(image);
                image = open(&path);
            }
        }
    }
    assert!(
        image.get(0, SIZE) == model,
        "{}: the image is not its model",
        case.0
    );
    drop(image);
    assert!(
        fs::read(images.path("base")).ok() == base,
        "{}: the base was written",
        case.0
    );
    assert!(
        open(&path).get(0, SIZE) == model,
        "{}: opened again, the image is not its model",
        case.0
    );
    assert_clean(&path);
    assert!(
        images.contents(&path) == model,
        "{}: QEMU reads something else",
        case.0
    );
    if Qcow2::has_raw_data_file(&path) {
        let data = fs::read(data_file_of(&path)).unwrap();
        assert!(
            data == model,
            "{}: the data file is no raw image any more",
            case.0
        );
    }
}

#[test]
fn every_kind_of_image_behaves_like_an_array_of_sectors() {
    need_qemu_img();
    let unmap = |may_unmap| Operation::Zeroes { may_unmap };
    let operations = [
        (Operation::Write(1), 3, 40),
        (Operation::Flush, 0, 1),
        (unmap(true), 5, 9),
        (Operation::Write(2), 30, 300),
        (unmap(false), 50, 100),
        (Operation::Write(3), 60, 1),
        (Operation::Discard, 200, 90),
        (Operation::Reopen, 0, 1),
        (Operation::Write(4), 203, 2),
        (Operation::Discard, 0, SIZE / 512),
        (Operation::Write(5), SIZE / 512 - 1, 1),
        (unmap(true), 400, SIZE / 512 - 400),
    ];
    let operations = operations.map(|(operation, sector, sectors)| (operation, sector * 512, sectors * 512));
    for case in &CASES {
        run(case, &operations);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn an_image_behaves_like_an_array_of_sectors(
        case in 0..CASES.len(),
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        need_qemu_img();
        run(&CASES[case], &operations);
    }
}

#[test]
fn zeroes_reach_the_end_of_a_cluster_that_begins_with_zeroes_of_a_backing_file() {
    need_qemu_img();
    let images = Images::new();
    let mut model = vec![0x55; SIZE];
    model[..1024].fill(0);
    images.compress("base", "cluster_size=1024", &model);
    let path = images.on("image", "cluster_size=8192", "base", "qcow2", SIZE as u64);
    let image = open(&path);
    image.write_zeroes(0, 16384, false).unwrap();
    model[..16384].fill(0);
    assert!(image.get(0, SIZE) == model);
}

#[test]
fn a_read_only_image_is_not_written() {
    need_qemu_img();
    let images = Images::new();
    let path = images.compress("image", "cluster_size=4096", &pattern(1));
    let before = fs::read(&path).unwrap();
    // Even if it could be.
    let image = try_open(&Disk {
        ro: true,
        ..disk(&path)
    })
    .unwrap();
    assert!(image.get(0, SIZE) == pattern(1));
    assert_eq!(
        image.put(0, &[1; 512]).unwrap_err().kind(),
        io::ErrorKind::ReadOnlyFilesystem
    );
    assert!(image.discard(0, 4096).is_err() && image.write_zeroes(0, 4096, true).is_err());
    image.flush().unwrap();
    drop(image);
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn nothing_behind_the_end_is_read_or_written() {
    need_qemu_img();
    let images = Images::new();
    let image = open(&images.create("image", "cluster_size=512", SIZE as u64));
    let size = SIZE as u64;
    for offset in [size - 512, size, u64::MAX - 511, u64::MAX] {
        assert_eq!(
            image.put(offset as usize, &[1; 1024]).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert!(image.discard(offset, 1024).is_err() && image.write_zeroes(offset, 1024, false).is_err());
    }
    assert!(image.get(0, SIZE) == vec![0; SIZE]);
}

#[test]
fn direct_access_reads_and_writes_the_same() {
    need_qemu_img();
    // Not in memory: direct access is a file system's.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    succeed(&["create", "-q", "-f", "qcow2", text(&path), &SIZE.to_string()]);
    let direct = Disk {
        cache: Cache::Direct,
        ..disk(&path)
    };
    let image = try_open(&direct).unwrap();
    let model = pattern(5);
    let mut aligned = vec![0_u8; SIZE + 4096];
    let start = aligned.as_ptr().align_offset(4096);
    aligned[start..start + SIZE].copy_from_slice(&model);
    let iovec = libc::iovec {
        iov_base: aligned[start..].as_mut_ptr().cast(),
        iov_len: SIZE,
    };
    // SAFETY: the buffer outlives the call.
    unsafe { image.write(&[iovec], 0).unwrap() };
    image.put(3 * 512, &model[..512]).unwrap();
    image.flush().unwrap();
    let mut expected = model.clone();
    expected[3 * 512..4 * 512].copy_from_slice(&model[..512]);
    assert!(image.get(0, SIZE) == expected);
    drop(image);
    assert_clean(&path);
    assert!(open(&path).get(0, SIZE) == expected);
}

#[test]
fn threads_that_share_clusters_do_not_disturb_each_other() {
    need_qemu_img();
    let images = Images::new();
    let base = pattern(6);
    images.compress("base", "cluster_size=2k", &base);
    let path = images.on("image", "cluster_size=4096", "base", "qcow2", SIZE as u64);
    let image = open(&path);
    // Every fourth sector is a thread's own, so that each cluster is everybody's. Those from here on come and go.
    let shared = SIZE / 2 / 4096 * 4096;
    let own = |thread: usize| (thread..shared / 512).step_by(4);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (image, base) = (&image, &base);
            scope.spawn(move || {
                let mut model: Vec<[u8; 512]> = base.as_chunks::<512>().0.to_vec();
                for round in 0..6_u8 {
                    for sector in own(thread) {
                        let offset = sector * 512;
                        assert!(
                            image.get(offset, 512) == model[sector],
                            "sector {sector} of thread {thread}"
                        );
                        match (sector / 4 + thread + usize::from(round)) % 7 {
                            0 => {
                                image.write_zeroes(offset as u64, 512, round % 2 == 0).unwrap();
                                model[sector].fill(0);
                            }
                            1 => image.discard(offset as u64, 512).unwrap(),
                            2 if sector % 64 == 0 => image.flush().unwrap(),
                            _ => {
                                model[sector].fill(round * 16 + thread as u8);
                                image.put(offset, &model[sector]).unwrap();
                            }
                        }
                    }
                }
                for sector in own(thread) {
                    assert!(image.get(sector * 512, 512) == model[sector]);
                }
            });
        }
        for round in 0..40 {
            let data = vec![round; SIZE - shared];
            image.put(shared, &data).unwrap();
            assert!(image.get(shared, data.len()) == data);
            image.discard(shared as u64, data.len() as u64).unwrap();
        }
    });
    let before = image.get(0, SIZE);
    assert!(before[shared..].iter().all(|byte| *byte == 0));
    drop(image);
    assert_clean(&path);
    assert!(images.contents(&path) == before);
}

#[test]
fn a_snapshot_keeps_its_data() {
    need_qemu_img();
    let images = Images::new();
    let path = images.create("image", "cluster_size=4096", SIZE as u64);
    let image = open(&path);
    image.put(0, &pattern(7)).unwrap();
    drop(image);
    succeed(&["snapshot", "-c", "before", text(&path)]);
    let image = open(&path);
    image.put(512, &pattern(8)[512..SIZE - 512]).unwrap();
    image.discard(4096, 8192).unwrap();
    image.write_zeroes(40960, 8192, false).unwrap();
    drop(image);
    assert_clean(&path);
    succeed(&["snapshot", "-a", "before", text(&path)]);
    assert_clean(&path);
    assert!(images.contents(&path) == pattern(7));
}

#[test]
fn an_image_whose_counts_cannot_be_trusted_is_not_written() {
    need_qemu_img();
    let images = Images::new();
    let path = images.create("image", "compat=1.1", SIZE as u64);
    let image = fs::read(&path).unwrap();
    let table = u64::from_be_bytes(image[48..56].try_into().unwrap()) as usize;
    let block = u64::from_be_bytes(image[table..table + 8].try_into().unwrap());
    for (offset, value, words) in [
        (table + 8, block, "a block twice"),
        (table, block + 512, "not in the file"),
        (table + 8, 1 << 40, "not in the file"),
        (table, 0, "as free space"),
        (block as usize, 0, "as free space"),
    ] {
        let mut damaged = image.clone();
        damaged[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
        fs::write(&path, damaged).unwrap();
        let error = try_open(&disk(&path)).err().unwrap().to_string();
        assert!(
            error.contains(words) && error.contains("qemu-img check -r all"),
            "{error}"
        );
        // Nobody counts for a reader.
        try_open(&Disk {
            ro: true,
            ..disk(&path)
        })
        .unwrap();
    }
}
