//! What Linux makes of the file systems: each is mounted on this machine, which takes root, loop devices and a kernel with EROFS.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{lgetxattr, llistxattr};
use tempfile::TempDir;

use crate::erofs_reader::{Files, Found, add_data};

/// A disk that is mounted until it is dropped.
pub struct Mounted {
    place: TempDir,
}

impl Mounted {
    pub fn new(disk: &[u8]) -> Self {
        let place = TempDir::new().unwrap();
        let file = place.path().join("disk");
        fs::write(&file, disk).unwrap();
        for name in ["root", "top"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        run(Command::new("mount")
            .args(["-t", "erofs", "-o", "loop,ro"])
            .arg(&file)
            .arg(place.path().join("root")));
        Self { place }
    }

    pub fn root(&self) -> std::path::PathBuf {
        self.place.path().join("root")
    }

    pub fn files(&self) -> Files {
        files_below(&self.root())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.root()));
    }
}

/// An overlayfs that a guest has over a disk, until it is dropped.
pub struct Overlaid(Mounted);

impl Overlaid {
    pub fn new(disk: Mounted) -> Self {
        let place = disk.place.path();
        // Only another file system than overlayfs can have what is written, and tests may run on one.
        run(Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(place.join("top")));
        for name in ["upper", "work", "merged"] {
            fs::create_dir(place.join("top").join(name)).unwrap();
        }
        let options = "lowerdir=root,upperdir=top/upper,workdir=top/work";
        run(Command::new("mount")
            .args(["-t", "overlay", "-o", options, "overlay", "top/merged"])
            .current_dir(place));
        Self(disk)
    }

    pub fn root(&self) -> std::path::PathBuf {
        self.0.place.path().join("top/merged")
    }
}

impl Drop for Overlaid {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.root()));
        run(Command::new("umount").arg(self.0.place.path().join("top")));
    }
}

/// Runs a program, which must end well. Gives what it prints.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {printed}{errors}");
    printed
}

/// All that is in a directory.
pub fn files_below(root: &Path) -> Files {
    let mut files = Files::new();
    let mut inodes: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let (found, inode) = look(&path);
        if found.mode & 0o170000 == 0o040000 {
            left.extend(fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()));
        }
        inodes.entry(inode).or_default().push(name.clone());
        files.insert(name, found);
    }
    for names in inodes.values() {
        let first = names.iter().min().unwrap();
        for name in names {
            files.get_mut(name).unwrap().first.clone_from(first);
        }
    }
    files
}

fn look(path: &Path) -> (Found, u64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let mut data = BTreeMap::new();
    if metadata.is_file() {
        add_data(&mut data, 0, &fs::read(path).unwrap());
    }
    let target = match metadata.is_symlink() {
        true => fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec(),
        false => Vec::new(),
    };
    let device = metadata.rdev();
    let found = Found {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified: (metadata.mtime(), metadata.mtime_nsec() as u32),
        links: metadata.nlink() as u32,
        device: (rustix::fs::major(device), rustix::fs::minor(device)),
        size: if metadata.is_dir() { 0 } else { metadata.len() },
        xattrs: xattrs(path),
        target,
        data,
        first: Vec::new(),
    };
    (found, metadata.ino())
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let length = llistxattr(path, &mut list[..]).unwrap();
    let names = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

/// The first page of a file as a mapping has it, also behind the end of the file.
pub fn first_page(path: &Path) -> Vec<u8> {
    // A program of its own maps it, so that nothing here is unsafe. Python's own module does not map behind the end.
    let program = "import ctypes, sys\n\
        mmap = ctypes.CDLL(None).mmap\n\
        mmap.restype = ctypes.c_void_p\n\
        mmap.argtypes = [ctypes.c_void_p] + [ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]\n\
        file = open(sys.argv[1], 'rb')\n\
        print(ctypes.string_at(mmap(None, 4096, 1, 1, file.fileno(), 0), 4096).hex())";
    let hex = run(Command::new("python3").args(["-c", program]).arg(path));
    let digits = hex.trim().as_bytes().chunks(2);
    digits
        .map(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect()
}
