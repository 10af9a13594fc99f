use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::thread;

use super::super::Image;
use super::*;
use crate::config::{Disk, Size};
use crate::virtio::block::qcow2::test_image::{Images, need_qemu_img};

/// The last block of it is a part of one.
const SIZE: usize = (1 << 20) + 512;

fn base(images: &Images) -> Disk {
    Disk {
        ephemeral: true,
        ..Disk::new(images.raw("base", &[0xba; SIZE]))
    }
}

fn get(image: &Image, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; length];
    image.read(&mut Buffers::of(&mut bytes), offset).unwrap();
    bytes
}

fn put(image: &Image, offset: u64, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    image.write(&mut Buffers::of(&mut bytes), offset, true).unwrap();
}

fn temporary(image: &Image) -> &Raw {
    match &image.data {
        Data::Overlay(overlay) => &overlay.temporary,
        _ => panic!("no overlay"),
    }
}

/// Bytes that the temporary file takes up.
fn space(image: &Image) -> u64 {
    let path = format!("/proc/self/fd/{}", temporary(image).fd());
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn what_is_written_hides_the_base_and_vanishes() {
    let images = Images::new();
    let disk = base(&images);
    let image = Image::open(&disk).unwrap();
    assert_eq!(image.limits().size, SIZE as u64);
    put(&image, 700 * 512, &[0x11; 512]);
    put(&image, SIZE as u64 - 512, &[0x22; 512]);
    image.write_zeroes(0, 65 << 10, true, false).unwrap();
    image.flush().unwrap();
    let written = [
        vec![0; 65 << 10],
        vec![0xba; 700 * 512 - (65 << 10)],
        vec![0x11; 512],
        vec![0xba; SIZE - 702 * 512],
        vec![0x22; 512],
    ];
    assert!(get(&image, 0, SIZE) == written.concat());
    drop(image);
    assert!(fs::read(&disk.file).unwrap() == [0xba; SIZE]);
    assert!(get(&Image::open(&disk).unwrap(), 0, SIZE) == [0xba; SIZE]);
}

#[test]
fn a_qcow2_image_shows_through() {
    need_qemu_img();
    let images = Images::new();
    let path = images.compress("base", "cluster_size=4096", &[0xba; SIZE]);
    let before = fs::read(&path).unwrap();
    let options = format!("{},ephemeral,format=qcow2", path.display());
    let image = Image::open(&options.parse().unwrap()).unwrap();
    put(&image, 512, &[0x11; 512]);
    let start = [vec![0xba; 512], vec![0x11; 512], vec![0xba; 64 << 10]].concat();
    assert!(get(&image, 0, start.len()) == start);
    drop(image);
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn what_is_discarded_gives_its_space_back() {
    let images = Images::new();
    let image = Image::open(&base(&images)).unwrap();
    assert_eq!(space(&image), 0);
    put(&image, 0, &[1; SIZE]);
    assert!(space(&image) >= SIZE as u64);
    image.discard(0, SIZE as u64).unwrap();
    // The file system of a test host may have no holes.
    let is_zero = get(&image, 0, SIZE) == [0; SIZE];
    assert_eq!(is_zero, space(&image) < SIZE as u64 / 2, "{}", space(&image));
}

#[test]
fn zeroes_take_no_space() {
    let images = Images::new();
    let image = Image::open(&base(&images)).unwrap();
    for may_unmap in [false, true] {
        image
            .write_zeroes(4096, SIZE as u64 - 4096, may_unmap, false)
            .unwrap();
    }
    assert_eq!(space(&image), 0);
}

#[test]
fn first_writes_to_parts_of_a_block_do_not_undo_each_other() {
    let images = Images::new();
    let disk = base(&images);
    for _ in 0..20 {
        let image = Image::open(&disk).unwrap();
        let write = |half: u64| {
            for block in 0..SIZE as u64 / BLOCK {
                put(&image, block * BLOCK + half * 2048, &[half as u8; 2048]);
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| write(0));
            scope.spawn(|| write(1));
        });
        for block in 0..SIZE as u64 / BLOCK {
            let halves = [[0; 2048], [1; 2048]].concat();
            assert!(get(&image, block * BLOCK, BLOCK as usize) == halves, "{block}");
        }
    }
}

#[test]
fn a_write_past_the_end_changes_nothing() {
    let images = Images::new();
    let image = Image::open(&base(&images)).unwrap();
    let mut bytes = [1; 1024];
    let mut buffers = Buffers::of(&mut bytes);
    assert!(image.write(&mut buffers, SIZE as u64 - 512, false).is_err());
    assert!(image.write(&mut buffers, u64::MAX, false).is_err());
    assert!(image.discard(SIZE as u64, 512).is_err());
    assert!(get(&image, SIZE as u64 - 512, 512) == [0xba; 512]);
}

#[test]
fn an_empty_request_changes_nothing() {
    let images = Images::new();
    let image = Image::open(&base(&images)).unwrap();
    for offset in [512, SIZE as u64] {
        put(&image, offset, &[]);
        image.discard(offset, 0).unwrap();
        image.write_zeroes(offset, 0, true, false).unwrap();
    }
    assert!(get(&image, 0, SIZE) == [0xba; SIZE]);
    assert_eq!(space(&image), 0);
}

#[test]
fn a_temporary_file_has_no_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = temporary_file(directory.path()).unwrap();
    file.write_all_at(b"written", 0).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let missing = directory.path().join("missing");
    assert_eq!(
        temporary_file(&missing).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}

/// A disk whose temporary file may take up 64 blocks.
fn limited(images: &Images) -> Image {
    Image::open(&Disk {
        limit: Some(Size(64 * BLOCK)),
        ..base(images)
    })
    .unwrap()
}

fn try_put(image: &Image, block: u64, blocks: usize) -> io::Result<()> {
    let mut bytes = vec![0x77; blocks * BLOCK as usize];
    image.write(&mut Buffers::of(&mut bytes), block * BLOCK, false)
}

#[test]
fn what_a_guest_writes_takes_up_no_more_than_the_limit() {
    let images = Images::new();
    let image = limited(&images);
    for block in 0..64 {
        try_put(&image, block * 2, 1).unwrap();
    }
    let error = try_put(&image, 200, 1).unwrap_err().to_string();
    assert!(
        error.contains("may take up 256K") && error.contains("limit=SIZE"),
        "{error}"
    );
    assert!(try_put(&image, 0, 3).is_err(), "the block between is new");
    assert!(get(&image, 200 * BLOCK, 512) == [0xba; 512]);
    // A part of a block brings the rest of it along.
    let mut sector = [1; 512];
    assert!(
        image
            .write(&mut Buffers::of(&mut sector), 512 + 200 * BLOCK, false)
            .is_err()
    );
    assert!(space(&image) <= 64 * BLOCK, "{}", space(&image));
    // What is there is written again, and what is let go of makes room.
    try_put(&image, 126, 1).unwrap();
    image.discard(0, BLOCK).unwrap();
    try_put(&image, 200, 1).unwrap();
    image.write_zeroes(2 * BLOCK, 2 * BLOCK, true, false).unwrap();
    try_put(&image, 2, 1).unwrap();
    assert!(try_put(&image, 202, 1).is_err());
    assert!(space(&image) <= 64 * BLOCK, "{}", space(&image));
}

/// A ramfs, which does not tell where a file's holes are, until it is dropped.
struct Ramfs(tempfile::TempDir);

impl Ramfs {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "ramfs", "ramfs"])
            .arg(directory.path())
            .output()
            .unwrap();
        assert!(
            mount.status.success(),
            "this test needs a ramfs, which only root can mount: {mount:?}"
        );
        Self(directory)
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn the_limit_holds_where_the_host_does_not_tell_holes() {
    let images = Images::new();
    let ramfs = Ramfs::new();
    let file = File::open(images.raw("base", &[0xba; SIZE])).unwrap();
    let base = Data::Raw(Raw::new(file, None, false));
    let overlay = Overlay::new(base, SIZE as u64, Size(64 * BLOCK), ramfs.0.path()).unwrap();
    let put = |block: u64| {
        let mut bytes = vec![0x77; BLOCK as usize];
        overlay.write(&mut Buffers::of(&mut bytes), block * BLOCK)
    };
    for block in 0..64 {
        put(block).unwrap();
    }
    assert!(put(64).is_err());
    assert_eq!(overlay.temporary.space().unwrap(), 64 * BLOCK);
}

#[test]
fn threads_that_write_and_discard_at_once_do_not_pass_the_limit() {
    const THREADS: u64 = 4;
    let images = Images::new();
    let image = limited(&images);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let image = &image;
            scope.spawn(move || {
                for step in 0..2000 {
                    let block = (step * 7 + thread * 61) % 248;
                    match step % 5 {
                        4 => image.discard(block * BLOCK, 8 * BLOCK).unwrap(),
                        _ => drop(try_put(image, block, 2)),
                    }
                }
            });
        }
    });
    // What each thread may write again where there is no hole, while another one makes one.
    assert!(space(&image) <= (64 + THREADS * 2) * BLOCK, "{}", space(&image));
}
