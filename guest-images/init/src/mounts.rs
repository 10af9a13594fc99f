//! The file systems that init mounts at the start, and those that it leaves clean at the end.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};

use crate::say::complain;

/// Target, type and options of each, in the order in which they are mounted.
const MOUNTS: [(&str, &str, &str); 7] = [
    ("/proc", "proc", ""),
    ("/sys", "sysfs", ""),
    ("/dev", "devtmpfs", "mode=755"),
    ("/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"),
    ("/dev/shm", "tmpfs", "mode=1777"),
    ("/tmp", "tmpfs", "mode=1777"),
    ("/run", "tmpfs", "mode=755"),
];

/// Character devices whose drivers start when somebody opens one: name, major and minor number, mode (Documentation/admin-guide/
/// devices.txt). Others appear with their drivers.
const NODES: [(&str, u64, u64, u32); 3] = [
    ("/dev/net/tun", 10, 200, 0o666),
    ("/dev/mapper/control", 10, 236, 0o600),
    ("/dev/loop-control", 10, 237, 0o660),
];

/// File systems that keep nothing when the guest ends. What overlayfs writes is kept by the one below, if that keeps anything.
const MEMORY_ONLY: [&str; 10] = [
    "rootfs", "ramfs", "tmpfs", "devtmpfs", "devpts", "proc", "sysfs", "cgroup2", "mqueue", "overlay",
];

/// Mounts everything in `MOUNTS`, but for what is mounted already, and what a container refuses.
pub fn mount_all() {
    for (target, kind, options) in MOUNTS {
        // A directory that is there already is the usual case; one that is missing makes the mount fail.
        let _ = fs::create_dir(target);
        let flags = MsFlags::MS_NOSUID
            | if kind == "devpts" {
                MsFlags::empty()
            } else {
                MsFlags::MS_RELATIME
            };
        match mount(Some(kind), target, Some(kind), flags, Some(options)) {
            Ok(()) | Err(Errno::EBUSY | Errno::EPERM | Errno::EACCES) => {}
            Err(why) => complain(format_args!("cannot mount {kind} on {target}: {why}")),
        }
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        // Some scripts use them; nothing else needs them.
        let _ = symlink(target, format!("/dev/{name}"));
    }
    let usual = umask(Mode::empty());
    for (name, major, minor, mode) in NODES {
        // A container may not make any, and then has those that it was given.
        let _ = Path::new(name).parent().map(fs::create_dir);
        let _ = mknod(
            name,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(mode),
            makedev(major, minor),
        );
    }
    umask(usual);
}

/// Unmounts what keeps data, the last mounted first; what is busy is made read-only, which writes it out too.
pub fn leave_clean() {
    let table = fs::read("/proc/self/mounts").unwrap_or_default();
    for target in keeping_data(&table).into_iter().rev() {
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let clean = umount2(&target, MntFlags::empty())
            .or_else(|_| mount(None::<&str>, &target, None::<&str>, read_only, None::<&str>));
        if clean.is_err() {
            nix::unistd::sync();
        }
    }
}

/// The mount points in a table like /proc/self/mounts whose file systems keep data, in the table's order.
fn keeping_data(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ').skip(1);
            let (target, kind) = (fields.next()?, fields.next()?);
            let memory_only = MEMORY_ONLY.iter().any(|name| name.as_bytes() == kind);
            (!memory_only).then(|| PathBuf::from(std::ffi::OsString::from_vec(unescape(target))))
        })
        .collect()
}

/// Undoes the table's escapes: white space and backslashes in a name are `\` and three octal digits.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] if *first == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_file_systems_that_keep_data_are_found() {
        let table = b"rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n/dev/vda /mnt ext4 rw 0 0\n\
            tmpfs /tmp tmpfs rw 0 0\n/dev/vdb /mnt/my\\040disk ext4 rw 0 0\n";
        assert_eq!(
            keeping_data(table),
            [PathBuf::from("/mnt"), PathBuf::from("/mnt/my disk")]
        );
    }

    #[test]
    fn a_lone_backslash_stays() {
        assert_eq!(unescape(b"a\\b\\12"), b"a\\b\\12");
    }

    proptest! {
        #[test]
        fn any_table_is_read(table: Vec<u8>) {
            keeping_data(&table);
        }

        #[test]
        fn an_escaped_name_comes_back(name: Vec<u8>) {
            let escaped: String = name.iter().map(|byte| format!("\\{byte:03o}")).collect();
            prop_assert_eq!(unescape(escaped.as_bytes()), name);
        }
    }
}
