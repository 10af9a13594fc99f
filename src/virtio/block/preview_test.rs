use std::fs;

use super::super::qcow2::test_image::{Images, need_qemu_img, succeed, text};
use super::*;
use crate::config::{Backing, Disk};

fn preview(disk: &Disk) -> Preview {
    Preview::of(disk, 8).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_look_at_an_image_with_bitmaps_leaves_it_as_it_is() {
    need_qemu_img();
    let images = Images::new();
    let path = images.create("image.qcow2", "compat=1.1", 1 << 20);
    succeed(&["bitmap", "--add", text(&path), "changes"]);
    let before = fs::read(&path).unwrap();
    preview(&Disk::new(path.clone()));
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn a_look_locks_nothing_and_needs_no_right_to_write() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(512).unwrap();
    file.as_file().lock().unwrap();
    let disk = Disk::new(file.path().into());
    assert_eq!(preview(&disk).queues, 4);
    file.as_file().unlock().unwrap();
    let other = fs::File::open(file.path()).unwrap();
    let _looked = Image::look(&disk).unwrap();
    other.try_lock().unwrap();
    drop(other);
    // Nobody, not even root, may write a program while it runs.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    // A process of its own writes it: what tests beside this one start would inherit a descriptor of ours that may write.
    let copy = "cp /bin/sleep \"$1\" && truncate -s %512 \"$1\"";
    let mut copying = std::process::Command::new("sh");
    copying.args(["-c", copy, "sh"]).arg(&program);
    assert!(copying.status().unwrap().success());
    let mut running = std::process::Command::new(&program).arg("1000").spawn().unwrap();
    let looked = Preview::of(
        &Disk {
            format: Some(Format::Raw),
            ..Disk::new(program)
        },
        1,
    );
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(looked.is_ok());
}

#[test]
fn what_lies_under_an_image_is_named_and_not_looked_at() {
    need_qemu_img();
    let images = Images::new();
    let path = images.create("image.qcow2", "compat=1.1", 1 << 20);
    for (name, words) in [
        ("absent.img", "absent.img (which the image names)"),
        ("/no/such/secret", "add ,backing=/no/such/secret"),
        (
            "/x/\u{1b}[2Jfile",
            "/x/file (which the image names and a run refuses",
        ),
    ] {
        succeed(&["rebase", "-u", "-b", name, "-F", "raw", text(&path)]);
        let backing = preview(&Disk::new(path.clone())).backing.unwrap();
        assert!(backing.contains(words), "{backing}");
    }
    let permitted = Disk {
        backing: Backing::Any,
        ..Disk::new(path)
    };
    assert!(!preview(&permitted).backing.unwrap().contains("refuses"));
}

#[test]
fn an_engine_that_a_disk_cannot_have_is_never_said_to_be_as_asked() {
    need_qemu_img();
    let images = Images::new();
    let disk = Disk {
        engine: config::Engine::Uring,
        ..Disk::new(images.create("image.qcow2", "compat=1.1", 1 << 20))
    };
    assert!(
        preview(&disk)
            .engine
            .to_string()
            .starts_with("sync (a qcow2 or ephemeral disk")
    );
    let raw = Disk {
        engine: config::Engine::Uring,
        ..Disk::new(images.raw("raw", &[0; 512]))
    };
    assert_eq!(preview(&raw).engine.to_string(), "uring (as asked)");
}

#[test]
fn what_a_run_refuses_about_the_file_a_look_refuses_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    assert!(
        Preview::of(&Disk::new(path.clone()), 1)
            .err()
            .unwrap()
            .is_missing()
    );
    for bytes in [&[][..], &[0; 1000], b"QFI\xfb"] {
        fs::write(&path, bytes).unwrap();
        let (looked, opened) = (
            Preview::of(&Disk::new(path.clone()), 1).err(),
            Image::open(&Disk::new(path.clone())).err(),
        );
        assert_eq!(looked.unwrap().to_string(), opened.unwrap().to_string());
    }
}
