//! Against QEMU's own programs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::super::{Image, ImageError, OpenError};
use super::*;
use crate::config::Disk;
use crate::virtio::block::qcow2::test_image::{Images, need_qemu_img, qemu_img, text};

/// `qemu-io` with a file open, until it is dropped.
pub struct QemuIo {
    child: Child,
    stdin: ChildStdin,
}

impl QemuIo {
    pub fn open(path: &Path, format: &str, options: &[&str]) -> Self {
        let mut child = Command::new("qemu-io")
            .args(["-f", format])
            .args(options)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // What answers has opened its file.
        stdin.write_all(b"length\n").unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let answer = lines.next().expect("qemu-io opened the file").unwrap();
        assert!(answer.contains("MiB"), "{answer}");
        Self { child, stdin }
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        let _ = self.stdin.write_all(b"quit\n");
        let _ = self.child.wait();
    }
}

fn images() -> (Images, Vec<(&'static str, Disk)>) {
    need_qemu_img();
    let images = Images::new();
    let disks = vec![
        ("raw", Disk::new(images.raw("image.img", &vec![0; 1 << 20]))),
        (
            "qcow2",
            Disk::new(images.create("image.qcow2", "compat=1.1", 1 << 20)),
        ),
    ];
    (images, disks)
}

fn read_only(disk: &Disk) -> Disk {
    Disk {
        ro: true,
        ..disk.clone()
    }
}

#[test]
fn what_qemu_writes_nobody_has_here() {
    let (_images, disks) = images();
    for (format, disk) in disks {
        let qemu = QemuIo::open(&disk.file, format, &[]);
        let holder = format!("process {} (qemu-io)", qemu.child.id());
        for disk in [disk.clone(), read_only(&disk)] {
            let error = Image::open(&disk).err().expect("QEMU has the image");
            assert!(
                matches!(error, ImageError::Open(OpenError::InUse { .. }))
                    && error.to_string().contains(&holder),
                "{error}"
            );
        }
        drop(qemu);
        Image::open(&disk).unwrap();
    }
}

/// QEMU's tools let others write a raw image that they read; its format qcow2 does not.
#[test]
fn what_qemu_reads_is_read_here_and_not_written_unless_qemu_lets_others_write() {
    let (_images, disks) = images();
    for (format, disk) in disks {
        let _qemu = QemuIo::open(&disk.file, format, &["-r"]);
        Image::open(&read_only(&disk)).unwrap();
        let is_refused = matches!(Image::open(&disk), Err(ImageError::Open(OpenError::InUse { .. })));
        assert_eq!(is_refused, format == "qcow2");
    }
}

/// Whether QEMU writes the image, or else says that a lock is in its way.
fn qemu_writes(format: &str, path: &Path) -> bool {
    let command = ["-f", format, "-c", "write 0 512"];
    let output = Command::new("qemu-io").args(command).arg(path).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || words.contains("lock"), "{words}");
    output.status.success()
}

#[test]
fn what_is_written_here_qemu_does_not_write() {
    let (_images, disks) = images();
    for (format, disk) in disks {
        let image = Image::open(&disk).unwrap();
        assert!(!qemu_writes(format, &disk.file));
        let info = qemu_img(&["info", "-f", format, text(&disk.file)]);
        assert_eq!(info.status.success(), format == "raw");
        drop(image);
        assert!(qemu_writes(format, &disk.file));
    }
}

#[test]
fn what_is_read_here_qemu_reads_and_does_not_write() {
    let (_images, disks) = images();
    for (format, disk) in disks {
        let image = Image::open(&read_only(&disk)).unwrap();
        let info = qemu_img(&["info", "-f", format, text(&disk.file)]);
        assert!(info.status.success());
        assert!(!qemu_writes(format, &disk.file));
        drop(image);
        assert!(qemu_writes(format, &disk.file));
    }
}

#[test]
fn what_lies_under_an_image_qemu_does_not_write() {
    let (images, _) = images();
    let path = images.on("overlay", "compat=1.1", "image.img", "raw", 1 << 20);
    let base = images.path("image.img");
    let overlay = Disk {
        format: Some(crate::config::Format::Qcow2),
        ..Disk::new(path)
    };
    let image = Image::open(&overlay).unwrap();
    assert!(!qemu_writes("raw", &base));
    drop(image);
    assert!(qemu_writes("raw", &base));
    let qemu = QemuIo::open(&base, "raw", &[]);
    let error = Image::open(&overlay)
        .err()
        .expect("QEMU writes the base")
        .to_string();
    assert!(error.contains("(qemu-io)"), "{error}");
    drop(qemu);
}

#[test]
fn what_is_unlocked_is_free_although_it_is_open() {
    let file = tempfile::NamedTempFile::new().unwrap();
    try_lock(file.as_file(), Access::Write).unwrap();
    let other = File::open(file.path()).unwrap();
    assert!(matches!(
        try_lock(&other, Access::Read),
        Err(TryLockError::WouldBlock)
    ));
    unlock(&other).unwrap();
    unlock(file.as_file()).unwrap();
    try_lock(&other, Access::Write).unwrap();
}
