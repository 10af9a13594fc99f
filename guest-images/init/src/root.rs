//! The root file system of a person's disk, in place of the initrd's: what Linux itself does when it has no initrd.

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use crate::cmdline::Root;
use crate::layers;

pub const NEW_ROOT: &str = "/new-root";
/// What the initrd's root has mounted, and the new one gets: a directory that it does not have is passed over.
const CARRIED_OVER: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];
/// Where Linux looks for init, in this order, when no `init=` names one.
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// Mounts the root and makes it this process's. An error is a sentence that says what went wrong and what would help.
pub fn enter(root: &Root) -> Result<(), String> {
    let lower = device(&root.device)?;
    let carried_over = match &root.layer {
        Some(layer) => {
            layers::mount_both(root, &lower, &device(layer)?)?;
            // What the image has in /run is its programs'.
            &CARRIED_OVER[..3]
        }
        None => {
            mount_root(root, &lower, NEW_ROOT)?;
            &CARRIED_OVER[..]
        }
    };
    for directory in carried_over {
        let target = format!("{NEW_ROOT}{directory}");
        match mount(
            Some(*directory),
            target.as_str(),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        ) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(why) => return Err(format!("cannot move {directory} to {}: {why}", root.device)),
        }
    }
    if root.layer.is_some() {
        layers::furnish(root.read_write);
    }
    chdir(NEW_ROOT)
        .and_then(|()| mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(|why| format!("cannot make {} the root: {why}", root.device))
}

/// The device file for what `root=` says.
fn device(name: &str) -> Result<String, String> {
    let file = match name.split_once('=') {
        None if name.starts_with('/') => name.to_owned(),
        None => format!("/dev/{name}"),
        Some((tag @ ("UUID" | "LABEL"), value)) => {
            let named = |file: &String| names(file).is_some_and(|names| names.is(tag, value));
            block_devices().into_iter().find(named).unwrap_or_default()
        }
        Some(_) => {
            return Err(format!(
                "the built-in guest knows root=/dev/NAME, root=UUID=... and root=LABEL=..., not root={name}"
            ));
        }
    };
    match Path::new(&file).exists() {
        true => Ok(file),
        false => Err(format!(
            "there is no root device {name}; there {}",
            what_there_is()
        )),
    }
}

/// The two names that an ext2, ext3 or ext4 file system has for itself.
struct Names {
    uuid: [u8; 16],
    label: [u8; 16],
}

/// The names of the file system on a device, if it has one of that kind (Linux filesystems/ext4/super).
fn names(file: &str) -> Option<Names> {
    const SUPER_BLOCK: u64 = 1024;
    const MAGIC: (usize, [u8; 2]) = (0x38, 0xef53_u16.to_le_bytes());
    const UUID: usize = 0x68;
    const LABEL: usize = 0x78;
    let mut block = [0; LABEL + 16];
    File::open(file)
        .ok()?
        .read_exact_at(&mut block, SUPER_BLOCK)
        .ok()?;
    block[MAGIC.0..].starts_with(&MAGIC.1).then_some(())?;
    Some(Names {
        uuid: *block[UUID..].first_chunk()?,
        label: *block[LABEL..].first_chunk()?,
    })
}

impl Names {
    fn is(&self, tag: &str, wanted: &str) -> bool {
        match tag {
            "UUID" => {
                let digits = |digit: &u8| digit.is_ascii_hexdigit();
                let uuid = self.uuid.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
                let uuid = uuid.filter_map(|digit| char::from_digit(digit.into(), 16));
                wanted
                    .bytes()
                    .filter(digits)
                    .map(|digit| char::from(digit.to_ascii_lowercase()))
                    .eq(uuid)
            }
            _ => self.label.split(|byte| *byte == 0).next() == Some(wanted.as_bytes()),
        }
    }
}

/// The device files of all disks and partitions, in order.
fn block_devices() -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir("/sys/class/block").into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str() {
            let file = format!("/dev/{name}");
            // The standard library's sort would be as large as all the rest here.
            files.insert(files.partition_point(|other| *other < file), file);
        }
    }
    files
}

/// The block devices of this guest, as the end of a sentence.
fn what_there_is() -> String {
    match block_devices() {
        none if none.is_empty() => "is no disk at all (--disk FILE)".into(),
        files => format!("are {}", files.join(", ")),
    }
}

/// Mounts the root at a directory, which it makes.
pub fn mount_root(root: &Root, device: &str, target: &str) -> Result<(), String> {
    let failed = |why: &dyn Display| format!("cannot mount the root device {device}: {why}");
    fs::create_dir(target).map_err(|why| failed(&why))?;
    let kinds = match &root.kind {
        Some(kind) => kind.split(',').map(str::to_owned).collect(),
        None => kinds_of_disks().map_err(|why| failed(&why))?,
    };
    let flags = match root.read_write && root.layer.is_none() {
        true => MsFlags::empty(),
        false => MsFlags::MS_RDONLY,
    };
    let mut last = Errno::EINVAL;
    for kind in &kinds {
        match mount(
            Some(device),
            target,
            Some(kind.as_str()),
            flags,
            root.options.as_deref(),
        ) {
            Ok(()) => return Ok(()),
            // Another file system's disk, as a rule.
            Err(Errno::EINVAL) => {}
            Err(why) => {
                last = why;
                break;
            }
        }
    }
    Err(match last {
        Errno::EINVAL => failed(&format!("it holds none of {}", kinds.join(", "))),
        Errno::EROFS => failed(&"the disk is read-only, and the file system must be written to be mounted"),
        why => failed(&why),
    })
}

/// The file systems of the kernel that are on a disk.
fn kinds_of_disks() -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/filesystems")?;
    Ok(on_disks(&table).map(str::to_owned).collect())
}

fn on_disks(table: &str) -> impl Iterator<Item = &str> {
    table
        .lines()
        .filter(|line| !line.starts_with("nodev"))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// The program that is to be PID 1 of the root: the one that was asked for, or the first that Linux would take.
pub fn init(asked_for: Option<&str>) -> Result<String, String> {
    match asked_for {
        Some(program) => Ok(program.into()),
        None => INITS
            .into_iter()
            .find(|program| Path::new(program).exists())
            .map(str::to_owned)
            .ok_or_else(|| format!("the root has none of {}", INITS.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_need_no_disk_are_left_out() {
        let table = "nodev\tsysfs\nnodev\ttmpfs\n\text3\n\text4\n\n";
        assert_eq!(on_disks(table).collect::<Vec<_>>(), ["ext3", "ext4"]);
    }

    #[test]
    fn the_init_that_was_asked_for_is_taken_whatever_there_is() {
        assert_eq!(init(Some("/my/init")).as_deref(), Ok("/my/init"));
    }

    #[test]
    fn a_file_systems_own_names_are_compared_as_people_write_them() {
        let mut label = [0; 16];
        label[..4].copy_from_slice(b"root");
        let names = Names {
            uuid: [0xc0, 0xc0, 0xac, 0x1e, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1],
            label,
        };
        assert!(names.is("UUID", "c0c0ac1e-0000-4000-8000-000000000001"));
        assert!(names.is("UUID", "C0C0AC1E-0000-4000-8000-000000000001"));
        assert!(!names.is("UUID", "c0c0ac1e-0000-4000-8000-000000000002"));
        assert!(!names.is("UUID", "c0c0ac1e"));
        assert!(names.is("LABEL", "root"));
        assert!(!names.is("LABEL", "roo"));
    }

    #[test]
    fn a_root_that_cannot_be_named_is_refused_with_what_can() {
        let refused = device("PARTUUID=1234").unwrap_err();
        assert!(refused.contains("root=/dev/NAME"), "{refused}");
        let refused = device("/dev/no-such-device").unwrap_err();
        assert!(
            refused.contains("no root device /dev/no-such-device"),
            "{refused}"
        );
    }
}
