use std::os::unix::fs::{FileExt, MetadataExt};

use super::super::test_image::*;
use super::*;

const SIZE: usize = 1 << 20;

/// On a raw base; the base is only open for reading.
fn overlay(images: &Images) -> Qcow2 {
    let path = images.raw("base", &[0xba; SIZE]);
    Qcow2::overlay(File::open(&path).unwrap(), &path, Format::Raw).unwrap()
}

#[test]
fn what_is_written_hides_the_base_and_vanishes() {
    let images = Images::new();
    let image = overlay(&images);
    assert_eq!(image.size(), SIZE as u64);
    assert_eq!(image.files().collect::<Vec<_>>(), [images.path("base")]);
    image.put(700 * 512, &[0x11; 512]).unwrap();
    image.write_zeroes(0, 64 << 10, true).unwrap();
    image.flush().unwrap();
    assert_eq!(
        image.get(699 * 512, 3 * 512),
        [[0xba; 512], [0x11; 512], [0xba; 512]].concat()
    );
    assert_eq!(
        image.get(0, 65 << 10),
        [vec![0; 64 << 10], vec![0xba; 1 << 10]].concat()
    );
    drop(image);
    assert_eq!(overlay(&images).get(0, SIZE), vec![0xba; SIZE]);
}

#[test]
fn discarded_clusters_give_their_space_back() {
    let images = Images::new();
    let image = overlay(&images);
    let space = || image.storage().unwrap().file().metadata().unwrap().blocks() * 512;
    let before = space();
    image.put(0, &[1; SIZE]).unwrap();
    assert!(space() >= before + SIZE as u64);
    image.discard(0, SIZE as u64).unwrap();
    // The file system of a test host may have no holes; then the clusters are still there to be used again.
    let punched = image
        .storage()
        .unwrap()
        .punch_hole(0, 0)
        .is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL));
    assert!(
        !punched || space() < before + (SIZE / 2) as u64,
        "{} {before}",
        space()
    );
    let length = || image.storage().unwrap().file().metadata().unwrap().len();
    let longest = length();
    image.put(0, &[2; SIZE]).unwrap();
    assert!(length() <= longest, "freed clusters were not used again");
    assert_eq!(image.get(0, SIZE), vec![2; SIZE]);
}

#[test]
fn zeroes_over_an_empty_base_take_no_space() {
    if !can_make_images() {
        return;
    }
    let images = Images::new();
    let path = images.create("base", "compat=1.1", 4 << 20);
    let image = Qcow2::overlay(File::open(&path).unwrap(), &path, Format::Qcow2).unwrap();
    let length = || image.storage().unwrap().file().metadata().unwrap().len();
    let before = length();
    image.write_zeroes(512, (4 << 20) - 1024, true).unwrap();
    image.write_zeroes(512, (4 << 20) - 1024, false).unwrap();
    image.discard(0, 4 << 20).unwrap();
    assert_eq!(length(), before);
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

#[test]
fn a_base_of_partial_sectors_is_refused() {
    let images = Images::new();
    let path = images.raw("base", &[0; 1000]);
    let error = Qcow2::overlay(File::open(&path).unwrap(), &path, Format::Raw)
        .err()
        .unwrap();
    assert!(
        matches!(error, Error::PartialSector { size: 1000, .. }),
        "{error}"
    );
}
