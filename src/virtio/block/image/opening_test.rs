use std::process::Command;

use super::super::loop_device::test_device::LoopDevice;
use super::super::{Image, ImageError};
use super::*;
use crate::virtio::block::qcow2::test_image::{Images, need_qemu_img};

#[test]
fn what_is_missing_or_empty_is_made_by_the_command_that_is_named() {
    let images = Images::new();
    for (name, program) in [
        ("a disk.img", "truncate"),
        ("a disk.qcow2", "qemu-img create"),
        ("other,format=qcow2", "qemu-img create"),
        ("other.qcow2,format=raw", "truncate"),
    ] {
        let disk: Disk = format!("{}{name}", images.path("").display()).parse().unwrap();
        for is_empty in [false, true] {
            if is_empty {
                File::create(&disk.file).unwrap();
            }
            let error = Image::open(&disk).err().unwrap();
            assert_eq!(error.is_missing(), !is_empty);
            let words = error.to_string();
            let (_, command) = words.rsplit_once(": ").unwrap();
            let command = command.strip_suffix(')').unwrap();
            assert!(command.starts_with(program), "{words}");
            let done = Command::new("sh").args(["-c", command]).output().unwrap();
            assert!(done.status.success(), "{words}: {done:?}");
            assert_eq!(Image::open(&disk).unwrap().limits().size, 1 << 30);
            std::fs::remove_file(&disk.file).unwrap();
        }
    }
}

#[test]
fn what_a_guest_writes_to_the_end_of_its_qcow2_image_makes_no_other_format_of_it() {
    need_qemu_img();
    let images = Images::new();
    let path = images.create("disk.qcow2", "compat=1.1", 1 << 20);
    let mut footer = [0; foreign::END];
    footer[..8].copy_from_slice(b"conectix");
    let file = File::options().write(true).open(&path).unwrap();
    let end = file.metadata().unwrap().len().next_multiple_of(65536);
    file.write_all_at(&footer, end + 65536 - foreign::END as u64)
        .unwrap();
    assert_eq!(Image::open(&Disk::new(path)).unwrap().limits().size, 1 << 20);
}

#[test]
fn too_many_open_files_are_told_with_the_limit() {
    for (number, words) in [
        (libc::EMFILE, "ulimit -n"),
        (libc::ENFILE, "fs.file-max"),
        (libc::EACCES, "ls -l"),
    ] {
        let error = cannot_open(&Disk::new("a".into()), io::Error::from_raw_os_error(number));
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_block_device_that_the_host_has_is_not_written() {
    let images = Images::new();
    let device = LoopDevice::new(&images.raw("file", &[0; 1 << 20]));
    let disk = Disk::new(device.path.clone());
    let read_only = Disk {
        ro: true,
        ..disk.clone()
    };
    // As a mounted file system has it.
    let mounted = open_file(&device.path, false, libc::O_EXCL).unwrap();
    let error = Image::open(&disk).err().unwrap();
    assert!(
        matches!(error, ImageError::Open(OpenError::Mounted { .. })),
        "{error}"
    );
    Image::open(&read_only).unwrap();
    Image::look(&disk).unwrap();
    drop(mounted);
    let image = Image::open(&disk).unwrap();
    let busy = open_file(&device.path, false, libc::O_EXCL).unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::EBUSY), "the host can mount it");
    // Another guest, not the host.
    let error = Image::open(&disk).err().unwrap();
    assert!(
        !matches!(error, ImageError::Open(OpenError::Mounted { .. })),
        "{error}"
    );
    drop(image);
    Image::open(&disk).unwrap();
}
