//! Files that guests boot and run from, made for one trial.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::place;

/// A directory for a trial's files. Dropping it removes it.
pub fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A copy of the disk that guest-images/ made: ext4, with a README.
pub fn ext4(scratch: &TempDir, name: &str) -> PathBuf {
    let copy = scratch.path().join(name);
    fs::copy(place::guest_images().join("disk.ext4"), &copy).unwrap();
    copy
}

/// A raw image of these bytes.
pub fn raw(scratch: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let image = scratch.path().join(name);
    fs::write(&image, bytes).unwrap();
    image
}

/// A raw image of zeros, as a sparse file.
pub fn sparse(scratch: &TempDir, name: &str, size: u64) -> PathBuf {
    let image = scratch.path().join(name);
    File::create(&image).unwrap().set_len(size).unwrap();
    image
}

/// `count` bytes that look random, every value among them, and are the same for the same seed (xorshift64).
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// The built-in guest's initrd with one more file, which replaces a file of the same name.
pub fn initrd_with(scratch: &TempDir, name: &str, mode: u32, content: &[u8]) -> PathBuf {
    let mut archive = fs::read(place::guest_images().join("initrd")).unwrap();
    archive.extend(cpio(name, mode, content));
    raw(scratch, "initrd", &archive)
}

/// The built-in guest's initrd with the program that tests disks as `/records`.
pub fn initrd_with_records(scratch: &TempDir) -> PathBuf {
    initrd_with(scratch, "records", 0o755, &fs::read(place::records()).unwrap())
}

/// The built-in guest's initrd with the program that talks to the host as `/sockets`.
pub fn initrd_with_sockets(scratch: &TempDir) -> PathBuf {
    initrd_with(scratch, "sockets", 0o755, &fs::read(place::sockets()).unwrap())
}

/// A cpio archive of one regular file, in the "newc" format (Linux driver-api/early-userspace/buffer-format).
pub fn cpio(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [(name, 0o100_000 | mode, content), ("TRAILER!!!", 0, &[])] {
        let sizes = (content.len(), name.len() + 1);
        archive.extend(format!(
            "070701{0:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{2:08x}{0:08x}{0:08x}{0:08x}{0:08x}{3:08x}{0:08x}",
            0, 1, sizes.0, sizes.1
        ).bytes());
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// Whether e2fsck finds no fault in an image.
#[track_caller]
pub fn assert_clean(image: &Path) {
    if let Err(why) = check_clean(image) {
        panic!("{why}");
    }
}

/// What e2fsck finds wrong with an image, which it does not change.
pub fn check_clean(image: &Path) -> Result<(), String> {
    run("/sbin/e2fsck", &["-f", "-n", &image.display().to_string()]).map(drop)
}

/// A file of the ext4 file system in an image.
#[track_caller]
pub fn file_on(image: &Path, name: &str) -> Vec<u8> {
    let shown = Command::new("/sbin/debugfs")
        .args(["-R", &format!("cat {name}")])
        .arg(image)
        .output()
        .unwrap();
    assert!(shown.status.success(), "debugfs: {}", shown.status);
    shown.stdout
}

/// Runs a program of the host and returns its standard output. If it fails, the error is what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|why| format!("cannot run {program}: {why}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(format!(
            "{program} {}: {}\n{said}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
