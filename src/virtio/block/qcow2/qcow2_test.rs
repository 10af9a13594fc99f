use std::fs::{self, File};
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
type Case = fn(&Images) -> (Option<PathBuf>, Qcow2, Vec<u8>);

fn empty(images: &Images, options: &str) -> (Option<PathBuf>, Qcow2, Vec<u8>) {
    let path = images.create("image", options, SIZE as u64);
    let image = open(&path);
    (Some(path), image, vec![0; SIZE])
}

const CASES: [(&str, Case); 10] = [
    ("version 3", |images| empty(images, "compat=1.1")),
    ("version 2", |images| empty(images, "compat=0.10,cluster_size=4096")),
    ("smallest clusters", |images| empty(images, "cluster_size=512")),
    ("largest clusters", |images| empty(images, "cluster_size=2M")),
    ("one-bit counts", |images| empty(images, "cluster_size=512,refcount_bits=1")),
    ("64-bit counts", |images| empty(images, "cluster_size=512,refcount_bits=64")),
    ("compressed", |images| {
        let model = pattern(1);
        let path = images.compress("image", "cluster_size=4096", &model);
        let image = open(&path);
        (Some(path), image, model)
    }),
    ("on a shorter raw file", |images| {
        let mut model = pattern(2);
        model.truncate(301 * 512);
        images.raw("base", &model);
        model.resize(SIZE, 0);
        let path = images.on("image", "cluster_size=4096", "base", "raw", SIZE as u64);
        let image = open(&path);
        (Some(path), image, model)
    }),
    ("on a compressed image on a raw one", |images| {
        let model = pattern(3);
        images.compress("base", "cluster_size=1024", &model);
        images.on("middle", "compat=0.10", "base", "qcow2", SIZE as u64);
        let path = images.on("image", "cluster_size=8192", "middle", "qcow2", SIZE as u64);
        let image = open(&path);
        (Some(path), image, model)
    }),
    ("an overlay", |images| {
        let model = pattern(4);
        let path = images.compress("base", "cluster_size=64k", &model);
        let base = File::open(&path).unwrap();
        (None, Qcow2::overlay(base, &path, Format::Qcow2).unwrap(), model)
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
        assert!(now == before || now.iter().all(|byte| *byte == 0), "a discarded sector has something new");
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
            Operation::Read => assert!(image.get(offset, length) == model[range], "{}: {offset} {length}", case.0),
            Operation::Write(seed) => {
                model[range.clone()].copy_from_slice(&pattern(*seed)[range.clone()]);
                image.put(offset, &model[range]).unwrap();
            }
            Operation::Zeroes { may_unmap } => {
                model[range].fill(0);
                image.write_zeroes(offset as u64, length as u64, *may_unmap).unwrap();
            }
            Operation::Discard => {
                image.discard(offset as u64, length as u64).unwrap();
                take_discarded(&image, &mut model, offset, length);
            }
            Operation::Flush => image.flush().unwrap(),
            Operation::Reopen => {
                if let Some(path) = &path {
                    drop(image);
                    image = open(path);
                }
            }
        }
    }
    assert!(image.get(0, SIZE) == model, "{}: the image is not its model", case.0);
    drop(image);
    assert!(fs::read(images.path("base")).ok() == base, "{}: the base was written", case.0);
    let Some(path) = path else { return };
    assert!(open(&path).get(0, SIZE) == model, "{}: opened again, the image is not its model", case.0);
    assert_clean(&path);
    assert!(images.contents(&path) == model, "{}: QEMU reads something else", case.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn an_image_behaves_like_an_array_of_sectors(
        case in 0..CASES.len(),
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        if can_make_images() {
            run(&CASES[case], &operations);
        }
    }
}
