//! Loop devices: block devices of the host whose contents are in a file. The device, its partitions and the file are one
//! image.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// From linux/loop.h.
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
/// How many loop devices on each other are looked through. The host's kernel makes no circles of them.
const DEPTH_MAX: usize = 8;

/// What the host's kernel tells about a loop device: the beginning of `struct loop_info64`, and the size of the rest.
#[repr(C)]
#[derive(Default)]
struct Status {
    device: u64,
    inode: u64,
    rest: [u64; 27],
}

/// A partition of a loop device, by the numbers of the two devices. Two partitions have no byte in common only if they are of
/// one loop device: the same file can be under several, with the same partitions in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub of: u64,
    pub partition: u64,
}

/// The file under a loop device.
pub struct Under {
    /// Device and inode, as in stat(2).
    pub device: u64,
    pub inode: u64,
    /// The partition, if only a part of the file is under the device.
    pub part: Option<Part>,
    /// What the host's kernel tells as its path.
    path: PathBuf,
}

impl Under {
    /// The file under `device`, if that is a loop device or a partition of one.
    pub fn of(device: &File) -> Option<Self> {
        let metadata = device.metadata().ok()?;
        let (path, part) = metadata
            .file_type()
            .is_block_device()
            .then(|| path_under(&metadata))??;
        let mut status = Status::default();
        // SAFETY: the kernel writes a `loop_info64`, which has the size of `Status`.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &mut status) };
        (result == 0).then_some(Self {
            device: status.device,
            inode: status.inode,
            part,
            path,
        })
    }

    /// Opens it for reading. The path is believed only if it leads to the file that the kernel tells.
    pub fn open(&self) -> io::Result<File> {
        self.check(&self.path.metadata()?)?;
        let file = open(&self.path, 0)?;
        self.check(&file.metadata()?)?;
        Ok(file)
    }

    fn check(&self, metadata: &Metadata) -> io::Result<()> {
        match (metadata.dev(), metadata.ino()) == (self.device, self.inode) {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{:?} is another file by now",
                self.path
            ))),
        }
    }
}

/// The file under `device` if that is a loop device or a partition of one; if the file is a loop device, too, the file
/// under that; and so on. Each with the result of opening it.
pub fn files_under(device: &File) -> Vec<(Under, io::Result<File>)> {
    let mut found: Vec<(Under, io::Result<File>)> = Vec::new();
    while found.len() < DEPTH_MAX {
        let last = match found.last() {
            Some((_, Ok(file))) => file,
            Some((_, Err(_))) => break,
            None => device,
        };
        let Some(mut under) = Under::of(last) else { break };
        // What lies in a part of a file lies in a part of the file under that, too.
        under.part = under.part.or(found.last().and_then(|(above, _)| above.part));
        let file = under.open();
        found.push((under, file));
    }
    found
}

/// The loop devices whose contents are in the file with this metadata.
pub fn devices_over(file: &Metadata) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let loops = devices
        .map(|entry| entry.file_name())
        .filter(|name| name.as_encoded_bytes().starts_with(b"loop"));
    let paths = loops.filter_map(|name| {
        // Most loop devices have no file, and need not be opened.
        read_path(&Path::new("/sys/block").join(&name).join("loop/backing_file"))?;
        let path = Path::new("/dev").join(name);
        let under = Under::of(&open(&path, 0).ok()?)?;
        ((under.device, under.inode) == (file.dev(), file.ino())).then_some(path)
    });
    paths.collect()
}

/// Opens the device for reading so that the host cannot use it meanwhile. Fails with EBUSY if the host uses it already.
pub fn claim(path: &Path) -> io::Result<File> {
    open(path, libc::O_EXCL)
}

fn open(path: &Path, flags: libc::c_int) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | flags)
        .open(path)
}

/// The path of the file under the device with this metadata, if that is a loop device or a partition of one; and which
/// partition.
fn path_under(device: &Metadata) -> Option<(PathBuf, Option<Part>)> {
    let partition = device.rdev();
    let (major, minor) = (libc::major(partition), libc::minor(partition));
    let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if let Some(path) = read_path(&folder.join("loop/backing_file")) {
        return Some((path, None));
    }
    // The folder of a partition is in that of its device.
    let path = read_path(&folder.join("../loop/backing_file"))?;
    let number = fs::read_to_string(folder.join("../dev")).ok()?;
    let (major, minor) = number.trim().split_once(':')?;
    let of = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some((path, Some(Part { of, partition })))
}

fn read_path(file: &Path) -> Option<PathBuf> {
    let mut path = fs::read(file).ok()?;
    path.pop_if(|last| *last == b'\n');
    Some(OsString::from_vec(path).into())
}

const _: () = assert!(mem::size_of::<Status>() == 232, "the size of struct loop_info64");

#[cfg(test)]
pub mod test_device;
#[cfg(test)]
#[path = "loop_device_test.rs"]
mod tests;
