use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::super::{Image, ImageError};
use super::*;
use crate::virtio::buffers::Buffers;

fn read_only() -> Disk {
    Disk::handed_over("an image".into(), true)
}

fn written() -> Disk {
    Disk::handed_over("a layer".into(), false)
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn refusal(disk: &Disk, files: Vec<File>) -> String {
    let error = Image::handed_over(disk, files).err().unwrap();
    let words = error.to_string();
    assert!(words.contains(disk.file.to_str().unwrap()), "{words}");
    words
}

fn read(image: &Image, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xdd; length];
    image.read(&mut Buffers::of(&mut bytes), 0).unwrap();
    bytes
}

#[test]
fn a_disk_without_bytes_is_refused() {
    for disk in [read_only(), written()] {
        for files in [vec![], vec![file(&[])]] {
            assert!(refusal(&disk, files).contains("no bytes"));
        }
    }
}

#[test]
fn a_directory_is_no_part_of_a_disk() {
    for disk in [read_only(), written()] {
        let directory = File::open("/").unwrap();
        assert!(refusal(&disk, vec![directory]).contains("is a directory"));
    }
}

#[test]
fn a_disk_that_is_written_is_one_file_of_whole_sectors() {
    assert!(refusal(&written(), vec![file(&[1; 512]), file(&[1; 512])]).contains("2 files"));
    assert!(refusal(&written(), vec![file(&[1; 1000])]).contains("1000 bytes"));
    let image = Image::handed_over(&written(), vec![file(&[1; 1024])]).unwrap();
    assert_eq!(image.limits().size, 1024);
    image.write(&mut Buffers::of(&mut [2; 512]), 512, false).unwrap();
    assert_eq!(read(&image, 1024), [[1; 512], [2; 512]].concat());
}

#[test]
fn what_is_discarded_of_a_file_without_a_name_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = File::options();
    options.read(true).write(true);
    let file = options
        .custom_flags(libc::O_TMPFILE)
        .open(directory.path())
        .unwrap();
    file.set_len(1 << 20).unwrap();
    let image = Image::handed_over(&written(), vec![file.try_clone().unwrap()]).unwrap();
    let space = || std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
    let before = space();
    image
        .write(&mut Buffers::of(&mut vec![1; 1 << 20]), 0, true)
        .unwrap();
    assert!(space() > before);
    image.discard(0, 1 << 20).unwrap();
    assert_eq!(space(), before);
    assert_eq!(read(&image, 4096), [0; 4096]);
}

#[test]
fn a_file_with_a_name_is_nobody_elses_meanwhile() {
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().set_len(512).unwrap();
    let image = Image::handed_over(&written(), vec![named.reopen().unwrap()]).unwrap();
    for disk in [
        Disk::new(named.path().into()),
        Disk {
            ro: true,
            ..Disk::new(named.path().into())
        },
    ] {
        assert!(matches!(Image::open(&disk), Err(ImageError::Open(_))));
    }
    drop(image);
    Image::open(&Disk::new(named.path().into())).unwrap();
}

#[test]
fn what_is_only_read_is_joined() {
    let image = Image::handed_over(&read_only(), vec![file(&[1; 100]), file(&[2; 4096])]).unwrap();
    assert_eq!(image.limits().size, 8192);
    assert!(image.limits().read_only);
    let expected = [&[1; 100][..], &[0; 3996], &[2; 4096]].concat();
    assert!(read(&image, 8192) == expected);
    assert!(image.write(&mut Buffers::of(&mut [3; 512]), 0, false).is_err());
    assert!(image.discard(0, 512).is_err());
    assert!(image.write_zeroes(0, 512, true, false).is_err());
    image.flush().unwrap();
    assert!(read(&image, 8192) == expected);
}

#[test]
fn what_is_written_to_an_ephemeral_disk_of_files_changes_no_file() {
    let disk = Disk {
        ephemeral: true,
        ..written()
    };
    let part = file(&[1; 100]);
    let image = Image::handed_over(&disk, vec![part.try_clone().unwrap(), file(&[2; 10])]).unwrap();
    image.write(&mut Buffers::of(&mut [3; 512]), 0, false).unwrap();
    assert_eq!(read(&image, 512), [3; 512]);
    assert_eq!(part.metadata().unwrap().len(), 100);
    let mut bytes = [0; 100];
    std::os::unix::fs::FileExt::read_exact_at(&part, &mut bytes, 0).unwrap();
    assert_eq!(bytes, [1; 100]);
}
