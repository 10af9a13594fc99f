//! Images as QEMU's own program makes, checks and reads them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::{Error, Qcow2};
use crate::config::{Backing, Disk};

/// Fails the test where there is no qemu-img.
pub fn need_qemu_img() {
    if let Err(error) = Command::new("qemu-img").arg("--version").output() {
        panic!("this test needs qemu-img ({error}): guest-images/need qemu-utils");
    }
}

pub fn qemu_img(arguments: &[&str]) -> Output {
    Command::new("qemu-img")
        .args(arguments)
        .output()
        .expect("qemu-img runs")
}

pub struct Images {
    directory: TempDir,
}

impl Images {
    /// Where no flush waits for a disk, if this host has such a place.
    pub fn new() -> Self {
        let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        Self {
            directory: directory.unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn create(&self, name: &str, options: &str, size: u64) -> PathBuf {
        self.make(name, options, &[], size)
    }

    /// With the data of `model`, compressed.
    pub fn compress(&self, name: &str, options: &str, model: &[u8]) -> PathBuf {
        let (raw, path) = (self.raw("uncompressed", model), self.path(name));
        succeed(&[
            "convert",
            "-q",
            "-c",
            "-O",
            "qcow2",
            "-o",
            options,
            text(&raw),
            text(&path),
        ]);
        path
    }

    /// The options by which the image of that name has a data file.
    pub fn data_outside(&self, name: &str, options: &str) -> String {
        format!("data_file={},{options}", text(&data_file_of(&self.path(name))))
    }

    /// On a backing file.
    pub fn on(&self, name: &str, options: &str, backing: &str, format: &str, size: u64) -> PathBuf {
        self.make(name, options, &["-b", backing, "-F", format], size)
    }

    fn make(&self, name: &str, options: &str, more: &[&str], size: u64) -> PathBuf {
        let (path, size) = (self.path(name), size.to_string());
        let begin = ["create", "-q", "-f", "qcow2", "-o", options];
        succeed(&[&begin, more, &[text(&path), &size]].concat());
        path
    }

    pub fn raw(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// What a guest would read, according to QEMU.
    pub fn contents(&self, path: &Path) -> Vec<u8> {
        let raw = self.path("contents");
        succeed(&["convert", "-f", "qcow2", "-O", "raw", text(path), text(&raw)]);
        fs::read(raw).unwrap()
    }
}

pub fn succeed(arguments: &[&str]) {
    let output = qemu_img(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Neither corruption nor leaked clusters.
pub fn assert_clean(path: &Path) {
    succeed(&["check", "-q", "-f", "qcow2", text(path)]);
}

/// Where the data is of an image at `path` that keeps it outside of itself.
pub fn data_file_of(path: &Path) -> PathBuf {
    path.with_extension("data")
}

/// A disk whose image may name any file, with a data file if that is there.
pub fn disk(path: &Path) -> Disk {
    Disk {
        backing: Backing::Any,
        data: Some(data_file_of(path)).filter(|data| data.exists()),
        ..Disk::new(path.into())
    }
}

/// Opens it for writing, even if it is to be only read.
pub fn try_open(disk: &Disk) -> Result<Qcow2, Error> {
    let file = File::options().read(true).write(true).open(&disk.file).unwrap();
    Qcow2::open(file, disk)
}

pub fn open(path: &Path) -> Qcow2 {
    try_open(&disk(path)).unwrap()
}

pub fn iovecs(buffers: &mut [Vec<u8>]) -> Vec<libc::iovec> {
    let iovecs = buffers.iter_mut().map(|buffer| libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    });
    iovecs.collect()
}

impl Qcow2 {
    /// In buffers of odd sizes.
    pub fn get(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut buffers: Vec<_> = pieces(length).map(|length| vec![0xee; length]).collect();
        let iovecs = iovecs(&mut buffers);
        // SAFETY: the buffers outlive the call.
        unsafe { self.read(&iovecs, offset as u64).unwrap() };
        buffers.concat()
    }

    pub fn put(&self, offset: usize, data: &[u8]) -> std::io::Result<()> {
        let mut rest = data;
        let mut buffers = Vec::new();
        for length in pieces(data.len()) {
            let (piece, after) = rest.split_at(length);
            buffers.push(piece.to_vec());
            rest = after;
        }
        let iovecs = iovecs(&mut buffers);
        // SAFETY: the buffers outlive the call.
        unsafe { self.write(&iovecs, offset as u64) }
    }
}

fn pieces(length: usize) -> impl Iterator<Item = usize> {
    let mut left = length;
    std::iter::from_fn(move || {
        let piece = left.min(left / 3 + 700);
        left -= piece;
        (piece > 0).then_some(piece)
    })
}
