use std::fs;
use std::os::unix::net::UnixListener;

use super::super::test_image::*;
use super::*;

const SIZE: u64 = 1 << 20;

fn refusal(path: &Path) -> Error {
    try_open(&disk(path)).err().expect("the image was opened")
}

#[test]
fn all_files_of_a_chain_are_named() {
    need_qemu_img();
    let images = Images::new();
    images.raw("raw", &[1; 512]);
    images.on("middle", "compat=0.10", "raw", "raw", SIZE);
    let path = images.on("image", "compat=1.1", "middle", "qcow2", SIZE);
    let image = open(&path);
    assert_eq!(
        image.files().collect::<Vec<_>>(),
        [path, images.path("middle"), images.path("raw")]
    );
}

#[test]
fn a_missing_backing_file_is_told_with_both_names() {
    need_qemu_img();
    let images = Images::new();
    images.raw("base", &[1; 512]);
    let path = images.on("image", "compat=1.1", "base", "raw", SIZE);
    fs::remove_file(images.path("base")).unwrap();
    let error = refusal(&path);
    assert!(error.is_missing());
    let words = error.to_string();
    for part in [text(&path), text(&images.path("base")), "qemu-img rebase -u"] {
        assert!(words.contains(part), "{words}");
    }
}

#[test]
fn only_files_and_block_devices_lie_under_an_image() {
    need_qemu_img();
    let images = Images::new();
    images.raw("base", &[1; 512]);
    let path = images.on("image", "compat=1.1", "base", "raw", SIZE);
    fs::remove_file(images.path("base")).unwrap();
    fs::create_dir(images.path("base")).unwrap();
    assert!(matches!(refusal(&path), Error::BackingKind { .. }));
    fs::remove_dir(images.path("base")).unwrap();
    let _socket = UnixListener::bind(images.path("base")).unwrap();
    assert!(matches!(refusal(&path), Error::BackingKind { .. }));
    fs::remove_file(images.path("base")).unwrap();
    let fifo = std::ffi::CString::new(text(&images.path("base"))).unwrap();
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    assert!(matches!(refusal(&path), Error::BackingKind { .. }));
}

#[test]
fn a_backing_file_that_somebody_writes_is_refused() {
    need_qemu_img();
    let images = Images::new();
    let base = images.raw("base", &[1; 512]);
    let path = images.on("image", "compat=1.1", "base", "raw", SIZE);
    let writer = File::options().write(true).open(base).unwrap();
    writer.try_lock().unwrap();
    // This process itself; QEMU stands for another one in qemu_locks_test.rs.
    assert!(matches!(refusal(&path), Error::BackingIsADisk { .. }));
    writer.unlock().unwrap();
    let _first = open(&path);
    open(&path);
}

#[test]
fn chains_end() {
    need_qemu_img();
    let images = Images::new();
    images.raw("0", &[1; 512]);
    images.on("1", "cluster_size=512", "0", "raw", SIZE);
    for number in 2..=MAX_FILES {
        fs::copy(images.path("1"), images.path(&number.to_string())).unwrap();
        let backing = (number - 1).to_string();
        let image = images.path(&number.to_string());
        succeed(&["rebase", "-u", "-b", &backing, "-F", "qcow2", text(&image)]);
    }
    let longest = images.path(&(MAX_FILES - 1).to_string());
    assert_eq!(open(&longest).files().count(), MAX_FILES);
    assert!(matches!(
        refusal(&images.path(&MAX_FILES.to_string())),
        Error::TooDeep { .. }
    ));

    succeed(&["rebase", "-u", "-b", "3", "-F", "qcow2", text(&images.path("2"))]);
    assert!(matches!(refusal(&images.path("3")), Error::Circle { .. }));
    succeed(&["rebase", "-u", "-b", "2", "-F", "qcow2", text(&images.path("2"))]);
    assert!(matches!(refusal(&images.path("2")), Error::Itself { .. }));
}
