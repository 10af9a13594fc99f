use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::super::{Image, ImageError, OpenError};
use super::*;
use crate::config::{Disk, Format};
use crate::virtio::block::qcow2::test_image::{Images, need_qemu_img, succeed, text};

/// A file that is of `format` and of nothing else.
fn example(format: &Foreign, filler: u8) -> (Vec<u8>, Vec<u8>) {
    let (mut start, mut end) = (vec![filler; START], vec![filler; END]);
    let from = match format.place {
        Place::Start(offset) => &mut start[offset..],
        Place::End(offset) => &mut end[END - offset..],
    };
    from[..format.magic.len()].copy_from_slice(format.magic);
    (start, end)
}

#[test]
fn each_format_of_the_table_is_recognised_and_has_a_remedy() {
    for format in FORMATS {
        let (start, end) = example(format, 0);
        assert_eq!(recognise(&start, &end).unwrap().name, format.name);
        let advice = format.advice(Path::new("disk.img"));
        assert!(advice.ends_with("add ,format=raw"), "{advice}");
    }
}

#[test]
fn what_a_disk_begins_with_is_no_other_format() {
    let mut mbr = vec![0; START];
    mbr[..3].copy_from_slice(b"\xeb\x63\x90");
    mbr[510..].copy_from_slice(b"\x55\xaa");
    let mut fat = mbr.clone();
    fat[..11].copy_from_slice(b"\xeb\x3c\x90mkfs.fat");
    let mut squashfs = vec![0; START];
    squashfs[..4].copy_from_slice(b"hsqs");
    for start in [vec![0; START], mbr, fat, squashfs, b"XFSB".to_vec(), Vec::new()] {
        assert!(recognise(&start, &[0; END]).is_none());
    }
}

/// What a person types after the first colon of the advice, up to the next alternative.
fn command(advice: &str) -> &str {
    let (_, rest) = advice.split_once(": ").unwrap();
    rest.split("; if").next().unwrap()
}

fn refusal(path: &Path) -> String {
    match Image::open(&Disk::new(path.into())) {
        Err(ImageError::Open(OpenError::Foreign { advice, .. })) => advice,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{path:?} was opened"),
    }
}

#[test]
fn images_of_other_programs_are_refused_and_the_command_that_is_named_converts_them() {
    need_qemu_img();
    let images = Images::new();
    let raw = images.raw("raw", &[0x5a; 1 << 20]);
    for (format, options) in [
        ("vmdk", "subformat=monolithicSparse"),
        ("vdi", "preallocation=off"),
        ("vhdx", "subformat=dynamic"),
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("qed", "cluster_size=65536"),
        ("parallels", "cluster_size=1M"),
    ] {
        let path = images.path(&format!("an image.{format}"));
        let _ = fs::remove_file(&path);
        let convert = ["convert", "-f", "raw", "-O", format, "-o", options];
        succeed(&[&convert[..], &[text(&raw), text(&path)]].concat());
        let before = fs::read(&path).unwrap();
        let advice = refusal(&path);
        assert!(fs::read(&path).unwrap() == before);
        let done = Command::new("sh")
            .args(["-c", command(&advice)])
            .output()
            .unwrap();
        assert!(done.status.success(), "{advice}: {done:?}");
        let converted = Disk::new(path.with_extension("qcow2"));
        assert!(
            Image::open(&converted).unwrap().limits().size >= 1 << 20,
            "{format}"
        );
        Image::open(&Disk {
            format: Some(Format::Raw),
            ro: true,
            ..Disk::new(path)
        })
        .map(drop)
        .unwrap_or_else(|error| assert!(error.to_string().contains("512"), "{error}"));
    }
}

#[test]
fn packed_images_are_refused_and_the_command_that_is_named_unpacks_them() {
    for (program, extension) in [("gzip", "gz"), ("xz", "xz"), ("bzip2", "bz2")] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's a disk.img");
        fs::write(&path, [0x5a; 4096]).unwrap();
        let packed = directory.path().join(format!("it's a disk.img.{extension}"));
        let pack = format!("{program} -c \"$1\" >\"$2\" && rm \"$1\"");
        let status = Command::new("sh")
            .args(["-c", &pack, "sh"])
            .args([&path, &packed])
            .status()
            .unwrap();
        assert!(status.success(), "this test needs {program}");
        let advice = refusal(&packed);
        let done = Command::new("sh")
            .args(["-c", command(&advice)])
            .status()
            .unwrap();
        assert!(done.success(), "{advice}");
        assert_eq!(
            Image::open(&Disk::new(path)).unwrap().limits().size,
            4096,
            "{program}"
        );
    }
}

#[test]
fn a_name_that_says_qcow2_is_not_believed_and_an_option_is() {
    let images = Images::new();
    let path = images.raw("image.qcow2", b"\x1f\x8b\x08 and so on");
    assert!(refusal(&path).contains("gzip -dc"));
    let disk = Disk {
        format: Some(Format::Qcow2),
        ..Disk::new(path)
    };
    assert!(matches!(Image::open(&disk), Err(ImageError::Qcow2(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_recognised_or_not(start: Vec<u8>, end: Vec<u8>) {
        if let Some(format) = recognise(&start, &end) {
            let held = |bytes: &[u8]| bytes.windows(format.magic.len()).any(|bytes| bytes == format.magic);
            prop_assert!(held(&start) || held(&end));
        }
    }

    #[test]
    fn a_format_is_recognised_whatever_is_around_its_magic(index in 0..FORMATS.len(), filler: u8) {
        let format = &FORMATS[index];
        let (start, end) = example(format, filler);
        prop_assert!(recognise(&start, &end).is_some());
        // Not when it is cut short, unless the rest is what is around it.
        if let Place::Start(offset) = format.place {
            let cut = offset + format.magic.len() - 1;
            prop_assert!(recognise(&start[..cut], &[]).is_none_or(|found| found.name != format.name));
        }
    }
}
