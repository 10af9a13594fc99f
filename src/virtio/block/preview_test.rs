use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::Path;

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
fn what_lies_under_an_image_is_told_down_to_the_last_file() {
    need_qemu_img();
    let images = Images::new();
    let base = images.raw("base.img", &[0; 512]);
    let middle = images.on("middle", "compat=1.1", "base.img", "raw", 1 << 20);
    let path = images.on("image.qcow2", "compat=1.1", "middle", "qcow2", 1 << 20);
    let disk = Disk::new(path.clone());
    let chain = [
        format!("{} (qcow2)", text(&middle)),
        format!("{} (raw)", text(&base)),
    ];
    assert_eq!(preview(&disk).backing, chain);
    // What a run would lock, a look does not wait for.
    let _writer = Image::open(&Disk::new(base.clone())).unwrap();
    assert_eq!(preview(&disk).backing, chain);
    // Only the last file is refused.
    fs::remove_file(&base).unwrap();
    let backing = preview(&disk).backing;
    assert_eq!(backing[0], chain[0]);
    let refusal = Image::open(&disk).err().unwrap().to_string();
    assert_eq!(backing[1..], [format!("a file that a run refuses: {refusal}")]);
}

/// Notices when somebody opens a file.
struct Opens(fs::File);

impl Opens {
    fn of(path: &Path) -> Self {
        let path = CString::new(text(path)).unwrap();
        // SAFETY: no memory is passed on.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: the path is a C string.
        assert!(unsafe { libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_OPEN) } >= 0);
        // SAFETY: the descriptor is new, and nobody else has it.
        Self(unsafe { fs::File::from_raw_fd(fd) })
    }

    fn any(&self) -> bool {
        (&self.0).read(&mut [0; 256]).is_ok()
    }
}

#[test]
fn what_a_run_refuses_under_an_image_a_look_does_not_open() {
    need_qemu_img();
    let images = Images::new();
    let path = images.create("image.qcow2", "compat=1.1", 1 << 20);
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, [0; 512]).unwrap();
    let opened = Opens::of(&secret);
    for (name, words) in [
        ("absent.img", "absent.img\", which does not exist"),
        (text(&secret), "add ,backing="),
        ("/x/\u{1b}[2Jfile", "names '/x/file'"),
        ("image.qcow2", "names itself"),
    ] {
        succeed(&["rebase", "-u", "-b", name, "-F", "raw", text(&path)]);
        let backing = preview(&Disk::new(path.clone())).backing;
        let refusal = Image::open(&Disk::new(path.clone())).err().unwrap().to_string();
        assert_eq!(backing, [format!("a file that a run refuses: {refusal}")]);
        assert!(
            refusal.contains(words) && !refusal.contains('\u{1b}'),
            "{refusal}"
        );
    }
    assert!(!opened.any(), "a file that is not permitted was opened");
    let permitted = Disk {
        backing: Backing::Any,
        ..Disk::new(path.clone())
    };
    succeed(&["rebase", "-u", "-b", text(&secret), "-F", "raw", text(&path)]);
    assert_eq!(preview(&permitted).backing, [format!("{} (raw)", text(&secret))]);
    assert!(opened.any());
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

#[test]
fn a_disk_that_is_handed_over_is_not_looked_for_by_its_name() {
    for ro in [true, false] {
        let disk = config::Disk::handed_over("/no/such/image.qcow2".into(), ro);
        let preview = Preview::of(&disk, 2).unwrap();
        assert_eq!(preview.queues, 2);
        assert_eq!(preview.engine.engine, config::Engine::Uring);
        assert!(preview.backing.is_empty() && preview.data.is_none());
    }
}
