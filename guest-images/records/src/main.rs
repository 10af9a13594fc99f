//! Runs in a guest whose disk is put to the test.
//!
//!     records write IMAGE                             writes records to /dev/vda until it is killed
//!     records check IMAGE append=N ring=N files=N     judges what is there after that
//!     records blocks read|write DEVICE                each 4 KiB of a disk in a request of its own
//!
//! `write` says `ack STREAM NUMBER .` once a record is durable, as the guest's kernel has promised. `check` is told the
//! last number of each stream that was seen, and says `held STREAM NUMBER .` or what is lost. Both mount the disk, whose
//! journal is replayed by that.

mod blocks;
mod record;
mod streams;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use nix::mount::{MsFlags, mount, umount};

use streams::{KINDS, Kind, Open};

const DISK: &str = "/dev/vda";
const MOUNT_POINT: &str = "/mnt";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["write", image] => number(image).and_then(write),
        ["check", image, ref seen @ ..] => number(image).and_then(|image| check(image, seen)),
        ["blocks", "read", device] => blocks::read(device.as_ref()),
        ["blocks", "write", device] => blocks::write(device.as_ref()),
        _ => {
            Err("usage: records write IMAGE | check IMAGE STREAM=NUMBER... | blocks read|write DEVICE".into())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("failed: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|why| format!("{text:?}: {why}"))
}

/// A line in one piece, for whoever watches the console. Where it cannot be said, nobody hears why.
fn say(line: &str) {
    let _ = io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}

fn mount_disk() -> Result<&'static Path, String> {
    // It is there already when this is not an initrd.
    let _ = fs::create_dir(MOUNT_POINT);
    mount(
        Some(DISK),
        MOUNT_POINT,
        Some("ext4"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|why| format!("cannot mount {DISK}: {why}"))?;
    Ok(Path::new(MOUNT_POINT))
}

/// All streams at once, each on a thread, until one of them fails.
fn write(image: u64) -> Result<(), String> {
    let directory = mount_disk()?;
    let (failed, failure) = mpsc::channel();
    for kind in KINDS {
        let failed = failed.clone();
        thread::spawn(move || {
            // The receiver is gone only when this process is going.
            let _ = failed.send(write_stream(kind, directory, image));
        });
    }
    failure.recv().map_err(|why| why.to_string())?
}

fn write_stream(kind: Kind, directory: &Path, image: u64) -> Result<(), String> {
    let failed = |why| format!("{}: {why}", kind.name());
    let Open { mut stream, last } = kind.open(directory, image).map_err(failed)?;
    for number in last + 1.. {
        stream
            .write(number)
            .map_err(|why| failed(format!("record {number}: {why}")))?;
        say(&format!("ack {} {number} .", kind.name()));
    }
    Ok(())
}

fn check(image: u64, seen: &[&str]) -> Result<(), String> {
    let directory = mount_disk()?;
    let mut lost = 0;
    for kind in KINDS {
        let name = kind.name();
        let prefix = format!("{name}=");
        let acknowledged = seen.iter().find_map(|word| word.strip_prefix(&prefix));
        let acknowledged = number(acknowledged.unwrap_or("0"))?;
        let line = match kind.check(directory, image) {
            Ok(last) if last >= acknowledged => format!("held {name} {last} ."),
            Ok(last) => format!("lost {name}: {acknowledged} was acknowledged, the last one there is {last}"),
            Err(why) => format!("lost {name}: {why}"),
        };
        lost += usize::from(line.starts_with("lost"));
        say(&line);
    }
    umount(directory).map_err(|why| format!("cannot unmount {DISK}: {why}"))?;
    match lost {
        0 => Ok(()),
        _ => Err(format!("{lost} of {} streams lost records", KINDS.len())),
    }
}
