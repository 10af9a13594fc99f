use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use super::super::Qcow2;
use super::super::order::L2_OFFSET;
use super::super::test_image::*;
use super::{Cache, Disk, File, Path, PathBuf};
use crate::virtio::block::image::check_each_once;
use crate::virtio::block::image::loop_device::test_device::LoopDevice;
use crate::virtio::block::preview::Preview;

const SIZE: usize = 1 << 20;
const COPIED: u64 = 1 << 63;

fn make(images: &Images, more: &str) -> PathBuf {
    let options = images.data_outside("image.qcow2", more);
    images.create("image.qcow2", &options, SIZE as u64)
}

fn refusal(disk: &Disk) -> String {
    try_open(disk).err().expect("it was opened").to_string()
}

fn with(path: &Path, data: &Path) -> Disk {
    Disk {
        data: Some(data.into()),
        ..Disk::new(path.into())
    }
}

fn be64(path: &Path, place: u64) -> u64 {
    let mut bytes = [0; 8];
    let file = File::open(path).unwrap();
    file.read_exact_at(&mut bytes, place).unwrap();
    u64::from_be_bytes(bytes)
}

#[test]
fn the_data_file_that_a_header_names_is_opened_once_the_person_typed_what_the_refusal_says() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "compat=1.1");
    let words = refusal(&Disk::new(path.clone()));
    let (_, option) = words.split_once("add ,").expect(&words);
    let option = option.split(", or ").next().unwrap();
    assert_eq!(option, format!("data={}", text(&data_file_of(&path))));
    let disk: Disk = format!("{},{option}", text(&path)).parse().unwrap();
    let image = try_open(&disk).unwrap();
    image.put(512, &[7; 1024]).unwrap();
    image.flush().unwrap();
    assert!(fs::read(data_file_of(&path)).unwrap()[512..1536] == [7; 1024]);
    drop(image);
    assert_clean(&path);
}

#[test]
fn a_name_in_the_header_opens_nothing_and_drives_no_terminal() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "compat=1.1");
    let bytes = fs::read(&path).unwrap();
    let name = data_file_of(&path);
    let name = text(&name).as_bytes();
    let place = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    // A file that nobody may open, a file that does not exist, and a name for the terminal.
    for (name, shown) in [
        ("/etc/shadow", "'/etc/shadow'"),
        ("/no/such", "'/no/such'"),
        ("/\u{1b}]0;title\u{7}x", "'/x'"),
        ("a,b", "'a,b'"),
    ] {
        let length = (name.len() as u32).to_be_bytes();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&length, place as u64 - 4).unwrap();
        file.write_all_at(&[0; 200], place as u64).unwrap();
        file.write_all_at(name.as_bytes(), place as u64).unwrap();
        let words = refusal(&Disk::new(path.clone()));
        assert!(
            words.contains(shown) && words.contains("qemu-img convert"),
            "{words}"
        );
        assert!(
            !words.contains(['\u{1b}', '\u{7}']) && !words.contains("data=a,b"),
            "{words:?}"
        );
        // The person's word counts.
        let image = try_open(&with(&path, &data_file_of(&path))).unwrap();
        image.put(0, &[9; 512]).unwrap();
    }
    assert!(fs::read(data_file_of(&path)).unwrap()[..512] == [9; 512]);
}

#[test]
fn a_data_file_that_cannot_be_one_is_refused_in_words() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "compat=1.1");
    fs::hard_link(&path, images.path("hard")).unwrap();
    let plain = images.create("plain.qcow2", "compat=1.1", SIZE as u64);
    for (disk, words) in [
        (with(&path, &path), "its own data file"),
        (with(&path, &images.path("hard")), "its own data file"),
        (with(&path, &images.path("absent")), "does not exist"),
        (with(&path, &images.path("")), "a directory"),
        (with(&plain, &data_file_of(&path)), "leave out ',data='"),
    ] {
        let refusal = refusal(&disk);
        assert!(refusal.contains(words) && refusal.ends_with(')'), "{refusal}");
    }
    assert!(
        try_open(&with(&path, &images.path("absent")))
            .err()
            .unwrap()
            .is_missing()
    );
    let ro = Disk {
        ro: true,
        ..with(&path, &path)
    };
    assert!(refusal(&ro).contains("its own data file"));
}

#[test]
fn an_image_under_another_one_has_no_data_file() {
    need_qemu_img();
    let images = Images::new();
    let below = make(&images, "compat=1.1");
    let path = images.on("top.qcow2", "compat=1.1", text(&below), "qcow2", SIZE as u64);
    let refusal = refusal(&disk(&path));
    assert!(
        refusal.contains("only for the image that a disk names") && refusal.contains(text(&below)),
        "{refusal}"
    );
}

#[test]
fn a_data_file_is_no_backing_file_as_well() {
    need_qemu_img();
    let images = Images::new();
    images.raw("base", &[1; SIZE]);
    let options = images.data_outside("image.qcow2", "compat=1.1");
    let path = images.on("image.qcow2", &options, "base", "raw", SIZE as u64);
    let both = Disk {
        data: Some(images.path("base")),
        ..disk(&path)
    };
    assert!(refusal(&both).contains("above it already"));
}

#[test]
fn a_data_file_has_one_writer_or_any_number_of_readers() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "compat=1.1");
    let data = data_file_of(&path);
    // Another image with the same data file.
    let other = images.path("other.qcow2");
    fs::copy(&path, &other).unwrap();
    let reads = |path: &Path| Disk {
        ro: true,
        ..with(path, &data)
    };
    let qemu_writes = || {
        qemu_img(&["bench", "-w", "-c", "1", "-f", "raw", text(&data)])
            .status
            .success()
    };
    let writer = try_open(&with(&path, &data)).unwrap();
    assert!(!qemu_writes());
    assert!(refusal(&with(&other, &data)).contains("cannot have its data file"));
    assert!(refusal(&reads(&other)).contains("cannot have its data file"));
    drop(writer);
    let readers = [
        try_open(&reads(&path)).unwrap(),
        try_open(&reads(&other)).unwrap(),
    ];
    assert!(!qemu_writes());
    assert!(refusal(&with(&other, &data)).contains("cannot have its data file"));
    drop(readers);
    assert!(qemu_writes());
}

#[test]
fn two_disks_with_one_data_file_are_told() {
    need_qemu_img();
    let images = Images::new();
    let (path, other) = (make(&images, "compat=1.1"), images.path("other.qcow2"));
    fs::copy(&path, &other).unwrap();
    let data = data_file_of(&path);
    fs::hard_link(&data, images.path("hard")).unwrap();
    let hard = with(&other, &images.path("hard"));
    for disks in [
        [with(&path, &data), hard.clone()],
        [Disk::new(data.clone()), hard.clone()],
    ] {
        let words = check_each_once(&disks).unwrap_err().to_string();
        assert!(
            words.contains("/hard\"") && words.contains("same file"),
            "{words}"
        );
    }
    let read = |disk: Disk| Disk { ro: true, ..disk };
    check_each_once(&[read(with(&path, &data)), read(hard)]).unwrap();
}

#[test]
fn what_is_only_read_is_open_only_for_reading() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "compat=1.1");
    try_open(&disk(&path)).unwrap().put(0, &[3; 4096]).unwrap();
    let data = data_file_of(&path);
    let before = fs::read(&data).unwrap();
    let ro = Disk {
        ro: true,
        ..disk(&path)
    };
    let ephemeral = Disk {
        ephemeral: true,
        ..disk(&path)
    };
    for disk in [ro, ephemeral] {
        let image = try_open(&disk).unwrap();
        assert!(image.get(0, 4096) == [3; 4096]);
        let file = image.data_file().unwrap().file();
        // SAFETY: the descriptor is open, and no memory is passed on.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        assert_eq!(flags & libc::O_ACCMODE, libc::O_RDONLY);
        assert!(image.put(0, &[4; 512]).is_err() && image.discard(0, 65536).is_err());
    }
    assert!(fs::read(&data).unwrap() == before);
}

#[test]
fn behind_the_end_of_a_data_file_there_are_zeroes() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "preallocation=metadata");
    let data = File::options().write(true).open(data_file_of(&path)).unwrap();
    open(&path).put(0, &[5; SIZE]).unwrap();
    for length in [70_000, 0] {
        data.set_len(length as u64).unwrap();
        let image = open(&path);
        let mut expected = vec![0; SIZE];
        expected[..length].fill(5);
        assert!(image.get(0, SIZE) == expected);
    }
    open(&path).put(SIZE - 512, &[6; 512]).unwrap();
    assert!(images.contents(&path)[SIZE - 512..] == [6; 512]);
}

#[test]
fn tables_that_say_that_data_lies_elsewhere_reach_nothing() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "preallocation=metadata");
    let data = data_file_of(&path);
    open(&path).put(0, &[8; SIZE]).unwrap();
    let before = fs::read(&data).unwrap();
    let l2 = be64(&path, be64(&path, 40)) & L2_OFFSET;
    let file = File::options().write(true).open(&path).unwrap();
    for offset in [0_u64, 3 << 16, 1 << 20, 1 << 30, 1 << 50] {
        for flags in [COPIED, COPIED | 1, 0] {
            if offset == 0 && flags == 0 {
                continue;
            }
            // The entry of the disk's second cluster.
            file.write_all_at(&(offset | flags).to_be_bytes(), l2 + 8)
                .unwrap();
            let is_zero = flags & 1 != 0;
            let image = open(&path);
            let mut buffer = vec![0; 512];
            let iovec = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            };
            // SAFETY: the buffer outlives the call.
            let read = unsafe { image.read(&[iovec], 65536) };
            assert_eq!(read.is_ok(), is_zero, "{offset:#x} {flags:#x}");
            let wrote = image
                .put(65536 + 512, &[1; 512])
                .and_then(|()| image.put(65536, &[1; 65536]));
            let discarded = image.discard(65536, 65536);
            drop(image);
            if flags & COPIED != 0 {
                assert!(wrote.is_err(), "{offset:#x} {flags:#x}");
                assert_eq!(discarded.is_ok(), is_zero);
            }
            let after = fs::read(&data).unwrap();
            let own = 65536..131_072;
            assert!(after.len() == SIZE && after[..own.start] == before[..own.start]);
            assert!(after[own.end..] == before[own.end..], "{offset:#x} {flags:#x}");
        }
    }
}

#[test]
fn a_raw_data_file_stays_one() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "data_file_raw=on,cluster_size=4096");
    let image = open(&path);
    assert!(
        Qcow2::has_raw_data_file(&path),
        "opening the image took the mark away"
    );
    let mut model = vec![6; SIZE];
    image.put(0, &model).unwrap();
    for (offset, length, may_unmap) in [(0, 4096, true), (8192, 8192, false), (20_480, 512, true)] {
        image
            .write_zeroes(offset as u64, length as u64, may_unmap)
            .unwrap();
        model[offset..offset + length].fill(0);
    }
    image.discard(65536, 65536).unwrap();
    model[65536..131_072].fill(0);
    image.flush().unwrap();
    // Without the tables, and while the image is still in use.
    assert!(fs::read(data_file_of(&path)).unwrap() == model);
    assert!(image.get(0, SIZE) == model);
    drop(image);
    assert!(Qcow2::has_raw_data_file(&path));
    assert_clean(&path);
    assert!(images.contents(&path) == model);
}

#[test]
fn a_flush_makes_a_data_file_and_the_tables_durable() {
    need_qemu_img();
    // Not in memory, where nothing is ever durable.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let options = format!("data_file={}", text(&data_file_of(&path)));
    succeed(&["create", "-q", "-f", "qcow2", "-o", &options, text(&path), "1M"]);
    let image = open(&path);
    image.put(0, &[1; SIZE]).unwrap();
    image.flush().unwrap();
    let l2 = be64(&path, be64(&path, 40)) & L2_OFFSET;
    assert!(l2 != 0, "the tables are not written");
    assert!(is_durable(&data_file_of(&path), 4096), "the data");
    assert!(is_durable(&path, l2), "the table");
}

/// Whether the host has written the page at `offset` to its device.
fn is_durable(path: &Path, offset: u64) -> bool {
    // What is not durable cannot be dropped from the page cache. What is may be in use by another processor for a moment.
    (0..100).any(|_| {
        thread::sleep(Duration::from_millis(1));
        is_dropped(path, offset)
    })
}

fn is_dropped(path: &Path, offset: u64) -> bool {
    let file = File::open(path).unwrap();
    // SAFETY: the descriptor is open, and no memory is passed on.
    let advised = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(advised, 0);
    let mut byte = [0_u8; 1];
    let iovec = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: the buffer outlives the call.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &iovec, 1, offset as i64, libc::RWF_NOWAIT) };
    read == -1
}

#[test]
fn no_table_is_written_before_the_data_that_it_names_is_durable() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "compat=1.1");
    let image = open(&path);
    image.put(0, &[1; SIZE]).unwrap();
    let before = fs::read(&path).unwrap();
    // For one flush the data file's descriptor is that of a pipe, which cannot be made durable.
    let descriptor = image.data_file().unwrap().file().as_raw_fd();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let data = image.data_file().unwrap().file().try_clone().unwrap();
    replace(descriptor, &pipe);
    image.flush().unwrap_err();
    replace(descriptor, &data);
    assert!(fs::read(&path).unwrap() == before, "a table was written");
    image.flush().unwrap_err();
}

/// Makes `descriptor` refer to what `file` refers to.
fn replace(descriptor: i32, file: &impl AsRawFd) {
    // SAFETY: both descriptors are open, and no memory is passed on.
    let result = unsafe { libc::dup3(file.as_raw_fd(), descriptor, libc::O_CLOEXEC) };
    assert_eq!(result, descriptor);
}

#[test]
fn a_data_file_can_be_a_block_device() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "cluster_size=4096");
    let file = data_file_of(&path);
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(SIZE as u64)
        .unwrap();
    let device = LoopDevice::new(&file);
    let disk = with(&path, &device.path);
    let mut model = vec![0; SIZE];
    let image = try_open(&disk).unwrap();
    for (offset, length) in [(0, 8192), (SIZE - 4096, 4096), (20_480, 65_536)] {
        model[offset..offset + length].fill(offset as u8 + 1);
        image.put(offset, &model[offset..offset + length]).unwrap();
    }
    model[4096..6144].fill(0);
    image.write_zeroes(4096, 2048, true).unwrap();
    image.discard(24_576, 8192).unwrap();
    model[24_576..32_768].fill(0);
    image.flush().unwrap();
    assert!(image.get(0, SIZE) == model);
    drop(image);
    assert!(try_open(&disk).unwrap().get(0, SIZE) == model);
    assert_clean(&path);
    assert!(images.contents(&path) == model);
}

#[test]
fn direct_access_is_that_of_the_data_file() {
    need_qemu_img();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let options = format!("data_file={}", text(&data_file_of(&path)));
    succeed(&["create", "-q", "-f", "qcow2", "-o", &options, text(&path), "1M"]);
    let direct = Disk {
        cache: Cache::Direct,
        ..disk(&path)
    };
    let image = try_open(&direct).unwrap();
    assert!(image.data_file().unwrap().is_direct() && !image.storage().unwrap().is_direct());
    image.put(512, &[2; 20_000 / 512 * 512]).unwrap();
    assert!(image.get(512, 19_968) == [2; 19_968]);
    image.flush().unwrap();
    drop(image);
    assert_clean(&path);
}

#[test]
fn a_look_shows_the_data_file_and_opens_none() {
    need_qemu_img();
    let images = Images::new();
    let path = make(&images, "compat=1.1");
    let look = |disk: &Disk| Preview::of(disk, 1);
    let data = data_file_of(&path);
    assert_eq!(
        look(&with(&path, &data)).unwrap().data.as_deref(),
        Some(text(&data))
    );
    let absent = look(&with(&path, Path::new("/no/such"))).unwrap().data.unwrap();
    assert!(
        absent.starts_with("/no/such (the image names ") && absent.contains(text(&data)),
        "{absent}"
    );
    let words = look(&Disk::new(path.clone())).err().unwrap().to_string();
    assert_eq!(words, refusal(&Disk::new(path.clone())));
    let itself = with(&path, &path);
    assert_eq!(look(&itself).err().unwrap().to_string(), refusal(&itself));
}
