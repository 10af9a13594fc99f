//! Finds out why Linux could not mount a root file system, from what it printed and what the guest was given.
//!
//! The texts are those of init/do_mounts.c in Linux 6.1; versions near it print the same.

use super::{Facts, console, initrd, more_memory};
use crate::boot::parameters;

/// Before the list of devices that the kernel has, in either of its two messages.
const LISTS: [&str; 2] = ["here are the available partitions:", "List of all partitions:"];
const NOTHING_MOUNTS: &str = "No filesystem could mount root, tried:";
/// How many names of a list are shown.
const NAMES_MAX: usize = 6;

/// The kernel's own error numbers, as it prints them.
const ENXIO: u32 = 6;
const EIO: u32 = 5;
const ENOMEM: u32 = 12;
const EBUSY: u32 = 16;
const ENODEV: u32 = 19;
const EINVAL: u32 = 22;
const EROFS: u32 = 30;
const EBADMSG: u32 = 74;
const EUCLEAN: u32 = 117;

/// What the console says of the root file system.
pub struct Root<'a> {
    lines: &'a [String],
    /// Whether the kernel knew a device of the name that it was given.
    has_device: bool,
    /// The error of the last attempt to mount it.
    error: Option<u32>,
    /// The devices that the kernel has, disks and partitions.
    devices: Vec<String>,
    /// The file systems that the kernel tried, if none of them recognised the device.
    tried: Option<Vec<&'a str>>,
}

impl<'a> Root<'a> {
    /// Reads what the kernel printed before its panic, and the panic's own message.
    pub fn read(lines: &'a [String], message: &'a str) -> Self {
        let find = |text: &str| lines.iter().rposition(|line| line.contains(text));
        let opened = find("Cannot open root device").and_then(|at| lines.get(at));
        let devices = LISTS.iter().filter_map(|list| find(list)).max();
        let tried = find(NOTHING_MOUNTS);
        Self {
            lines,
            // Without a device, its number is zero.
            has_device: message.contains("unknown-block(") && !message.contains("unknown-block(0,0)"),
            error: opened.and_then(|line| error_number(line)),
            devices: devices.map_or_else(Vec::new, |at| devices_of(&lines[at + 1..])),
            tried: tried.map(|at| tried_in(&lines[at..])),
        }
    }

    /// The cause in half a sentence.
    pub fn summary(&self) -> &'static str {
        match self.is_there() {
            true => "the root file system cannot be mounted",
            false => "no root device",
        }
    }

    /// The likely cause, and what to do.
    pub fn explain(&self, facts: &Facts) -> (String, String) {
        if let Some(reason) = self.initrd_failure(facts) {
            let next = initrd_advice(&reason, facts);
            return (format!("the kernel could not unpack the initrd: {reason}"), next);
        }
        match self.is_there() {
            true => self.not_mounted(facts),
            false => self.no_device(facts),
        }
    }

    fn is_there(&self) -> bool {
        // A number on the command line is taken for a device without looking: ENXIO then says that there is none.
        self.has_device && self.error != Some(ENXIO)
    }

    fn initrd_failure(&self, facts: &Facts) -> Option<String> {
        let here = self.lines.iter().rev().find_map(|line| initrd::reason(line));
        here.map(str::to_owned).or_else(|| facts.initrd_failure.clone())
    }

    fn no_device(&self, facts: &Facts) -> (String, String) {
        if facts.has_initrd
            && let Some(program) = parameters::last_value(&facts.command_line, "rdinit")
        {
            return (
                format!(
                    "the initrd has no {}, which rdinit= names, so the kernel looked for a root device",
                    console::clean(program)
                ),
                "--cmdline with rdinit=PATH of a program in the initrd, or without rdinit=, which means /init".into(),
            );
        }
        let (cause, next) = match (facts.root(), facts.has_disk, facts.has_initrd) {
            (_, false, false) => (
                "no disk was given and no initrd".into(),
                "coracle run --disk ROOT.img --cmdline root=/dev/vda ..., or --initrd FILE".into(),
            ),
            (_, false, true) => (
                "the initrd has no /init, so the kernel looked for a root device".into(),
                "put an executable /init at the top of the initrd, or name another with --cmdline rdinit=/PATH".into(),
            ),
            (None, true, _) => (
                "the command line names no root device".into(),
                format!("--cmdline root=/dev/{}", self.devices.first().map_or("vda", String::as_str)),
            ),
            (Some(root), true, _) => match self.devices.as_slice() {
                [] => (
                    format!("the kernel has no device {root}: it lacks the driver, or has it as a module"),
                    "a kernel with CONFIG_VIRTIO_BLK=y and CONFIG_VIRTIO_MMIO=y, or an initrd that loads the modules"
                        .into(),
                ),
                [first, ..] if ["UUID=", "LABEL="].iter().any(|tag| root.starts_with(tag)) => (
                    format!("the kernel finds no device by {root}: only an initrd can look into file systems"),
                    format!("--cmdline root=/dev/{first} or root=PARTUUID=..., or the distribution's initrd"),
                ),
                [first, ..] => (
                    format!("the kernel has no device {root}; it has {}", listed(&self.devices)),
                    format!("--cmdline root=/dev/{first}"),
                ),
            },
        };
        (cause, next)
    }

    fn not_mounted(&self, facts: &Facts) -> (String, String) {
        let says = |text: &str| self.lines.iter().any(|line| line.contains(text));
        let (cause, next) = match self.error {
            Some(EROFS) if says("recovery required on readonly") || says("write access unavailable") => (
                "the file system was not unmounted: its journal must be written, and the disk is read-only",
                "the disk with `ephemeral` in place of `ro`, or --cmdline rootflags=noload to leave the journal out",
            ),
            Some(EROFS) => (
                "the disk is read-only, and the file system must be written to be mounted",
                "the disk with `ephemeral` in place of `ro`: its file stays as it is",
            ),
            Some(EIO) => (
                "the disk cannot be read, or ends before the file system does",
                "what Coracle said of the disk above; `fsck -n` on the image",
            ),
            Some(ENOMEM) => return ("not enough memory to mount it".into(), more_memory(facts)),
            Some(EBUSY) => (
                "the root device is in use by something else",
                "another device in root=",
            ),
            Some(ENODEV) => (
                "the kernel has no file system of the name that rootfstype= gives",
                "--cmdline without rootfstype=, or a kernel with that file system built in",
            ),
            Some(EBADMSG | EUCLEAN) => (
                "the file system is damaged",
                "`fsck` on the image, with no guest running",
            ),
            Some(error) if error != EINVAL => {
                return (
                    format!("mounting the root device gave error {error}"),
                    "the lines of the file system above that; `fsck -n` on the image".into(),
                );
            }
            _ => return self.no_file_system(facts),
        };
        (cause.into(), next.into())
    }

    /// The cause and the advice if there is a device that no file system recognises.
    fn no_file_system(&self, facts: &Facts) -> (String, String) {
        let root = facts.root().unwrap_or_default();
        let name = root.strip_prefix("/dev/").unwrap_or(&root);
        let is_partition = |device: &&String| {
            device.strip_prefix(name).is_some_and(|number| {
                let number = number.strip_prefix('p').unwrap_or(number);
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            })
        };
        let partitions: Vec<String> = self.devices.iter().filter(is_partition).cloned().collect();
        if let (Some(first), false) = (partitions.first(), name.is_empty()) {
            return (
                format!("{root} is a disk with partitions: {}", listed(&partitions)),
                format!("--cmdline root=/dev/{first}, or the partition that holds the root file system"),
            );
        }
        let tried = self.tried.as_deref().unwrap_or_default();
        let cause = match tried {
            [] => "the disk holds no file system that is built into the kernel, or holds a partition table"
                .into(),
            tried => format!(
                "the disk holds none of the kernel's file systems ({}), or a partition table that it cannot read",
                listed(tried)
            ),
        };
        let next = "a kernel with the disk's file system built in, or an initrd that loads it as a module";
        (cause, next.into())
    }
}

/// What to do about an initrd that could not be unpacked for this reason.
pub fn initrd_advice(reason: &str, facts: &Facts) -> String {
    match reason {
        initrd::NO_ROOM => more_memory(facts),
        _ => {
            "an initrd made with `cpio -o -H newc`, compressed in a way that the kernel was built for".into()
        }
    }
}

/// The number in `error -30`.
fn error_number(line: &str) -> Option<u32> {
    let (_, number) = line.rsplit_once("error -")?;
    let end = number
        .find(|digit: char| !digit.is_ascii_digit())
        .unwrap_or(number.len());
    number[..end].parse().ok()
}

/// The names in the kernel's list of devices: number, blocks of 1 KiB, name, and for a partition what else is known.
fn devices_of(lines: &[String]) -> Vec<String> {
    let device = |line: &String| {
        let mut words = line.split_whitespace();
        let (number, blocks, name) = (words.next()?, words.next()?, words.next()?);
        // The advice contains the name, and a person may copy the advice into a shell. All names of Linux's drivers pass.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!".contains(&byte);
        let is_device = number
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b':')
            && blocks.bytes().all(|byte| byte.is_ascii_digit())
            && name.bytes().all(is_plain);
        is_device.then(|| name.to_owned())
    };
    // The line after a disk is about the disk's driver.
    let is_driver = |line: &str| line.starts_with("driver: ") || line == "(driver?)";
    lines
        .iter()
        .take_while(|line| is_driver(line) || device(line).is_some())
        .filter_map(device)
        .collect()
}

/// The names after [`NOTHING_MOUNTS`], which are on its own line or on lines of their own.
fn tried_in(lines: &[String]) -> Vec<&str> {
    let on_its_own = lines
        .first()
        .and_then(|line| line.split_once(NOTHING_MOUNTS))
        .map_or("", |(_, rest)| rest);
    let below = lines.iter().skip(1).take_while(|line| !line.contains(' '));
    on_its_own
        .split_whitespace()
        .chain(below.map(String::as_str))
        .collect()
}

fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_MAX).map(AsRef::as_ref).collect();
    let more = if names.len() > NAMES_MAX { ", ..." } else { "" };
    shown.join(", ") + more
}

#[cfg(test)]
#[path = "root_test.rs"]
mod tests;
