//! One round: a guest writes records, its `coracle` is killed, and the acknowledged records must still be there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::images::{self, check_clean, initrd_with_records};
use crate::run::{Coracle, Finished};

/// The options of the disks. Successive blocks of rounds use one after the other.
pub const DISKS: [&str; 9] = [
    ",engine=sync,cache=writeback",
    ",engine=uring,cache=direct",
    ",engine=sync,cache=writethrough",
    ",engine=uring,cache=writeback",
    ",engine=sync,cache=direct",
    ",engine=uring,cache=writethrough",
    ",format=qcow2,cache=writeback",
    ",format=qcow2,cache=direct",
    ",format=qcow2,cache=writethrough",
];

/// The streams of `records`, in its order.
const STREAMS: [&str; 3] = ["append", "ring", "files"];

const IMAGE_SIZE: u64 = 48 << 20;

/// What was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum How {
    Coracle,
    PowerCut,
}

/// The result of a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Round {
    pub how: How,
    /// The disk's options.
    pub disk: String,
    /// From the start of the killed process to its end.
    pub milliseconds: u64,
    /// Records that the guest said to be durable.
    pub acknowledged: u64,
    /// Records that a guest's check does not find.
    pub lost: Vec<String>,
    /// Faults that e2fsck and qemu-img find.
    pub unclean: Vec<String>,
}

impl Round {
    pub fn is_good(&self) -> bool {
        self.lost.is_empty() && self.unclean.is_empty()
    }
}

/// An image over several rounds.
pub struct Image {
    pub path: PathBuf,
    /// The `image` of its records.
    pub id: u64,
    /// An index into [`DISKS`].
    pub disk: usize,
    /// The last record of each stream that is known to be there.
    pub held: [u64; STREAMS.len()],
}

impl Image {
    /// The file does not exist yet.
    pub fn new(directory: &Path, id: u64, disk: usize) -> Self {
        Self {
            path: directory.join(format!("{id}.image")),
            id,
            disk,
            held: Default::default(),
        }
    }

    pub fn make(&self) -> Result<(), String> {
        let scratch = images::scratch();
        let raw = match self.is_qcow2() {
            true => scratch.path().join("raw"),
            false => self.path.clone(),
        };
        let file = File::create(&raw).map_err(|why| why.to_string())?;
        file.set_len(IMAGE_SIZE).map_err(|why| why.to_string())?;
        let raw = raw.display().to_string();
        images::run("/sbin/mke2fs", &["-q", "-F", "-t", "ext4", &raw])?;
        match self.is_qcow2() {
            true => convert(&raw, "raw", &self.path.display().to_string(), "qcow2"),
            false => Ok(()),
        }
    }

    fn is_qcow2(&self) -> bool {
        DISKS[self.disk].contains("qcow2")
    }

    fn coracle(&self, guest: &Guest, command: &str) -> Coracle {
        Coracle::run()
            .args(["--initrd".as_ref(), guest.initrd.as_os_str()])
            // Of two vCPUs, each has a queue.
            .args(["--cpus", if self.id.is_multiple_of(2) { "1" } else { "2" }])
            .args(["--disk", &format!("{}{}", self.path.display(), DISKS[self.disk])])
            .args(["--cmdline", &format!("quiet -- /records {command}")])
    }

    /// A guest that writes records until it is killed.
    pub fn write(&self, guest: &Guest) -> Coracle {
        self.coracle(guest, &format!("write {}", self.id))
    }

    /// Counts the records that a guest acknowledged, and notes that the image must hold them.
    pub fn acknowledge(&mut self, console: &str) -> u64 {
        let mut acknowledged = 0;
        for (stream, held) in STREAMS.iter().zip(&mut self.held) {
            for number in numbers(console, "ack", stream) {
                *held = number.max(*held);
                acknowledged += 1;
            }
        }
        acknowledged
    }

    /// Records that a guest does not find when it mounts the image after a crash.
    pub fn check(&mut self, guest: &Guest) -> Vec<String> {
        let mut seen = String::new();
        for (stream, held) in STREAMS.iter().zip(self.held) {
            seen += &format!(" {stream}={held}");
        }
        let finished = self.coracle(guest, &format!("check {}{seen}", self.id)).end();
        let console = finished.console();
        let mut lost: Vec<String> = console
            .lines()
            .filter(|line| line.starts_with("lost ") || line.starts_with("failed: "))
            .map(str::to_owned)
            .collect();
        for (stream, held) in STREAMS.iter().zip(&mut self.held) {
            match numbers(&console, "held", stream).next() {
                Some(number) => *held = number,
                None if lost.is_empty() => lost.push(format!("{stream} was not checked\n{finished}")),
                None => {}
            }
        }
        if finished.code != 0 || !finished.stderr.is_empty() {
            lost.push(format!("the check did not end well\n{finished}"));
        }
        lost
    }

    /// What is wrong with the image itself.
    pub fn unclean(&self) -> Vec<String> {
        let checked = match self.is_qcow2() {
            true => self.check_qcow2(),
            false => check_clean(&self.path),
        };
        checked.err().into_iter().collect()
    }

    fn check_qcow2(&self) -> Result<(), String> {
        /// The status of `qemu-img check` when there are leaked clusters and no other fault. A crash may leave those.
        const LEAKED: i32 = 3;
        let image = self.path.display().to_string();
        let check = Command::new("qemu-img")
            .args(["check", "-f", "qcow2", &image])
            .output()
            .map_err(|why| format!("cannot run qemu-img: {why}"))?;
        if !matches!(check.status.code(), Some(0 | LEAKED)) {
            let said = [check.stdout, check.stderr].concat();
            return Err(format!(
                "qemu-img check: {}\n{}",
                check.status,
                String::from_utf8_lossy(&said)
            ));
        }
        let scratch = images::scratch();
        let raw = scratch.path().join("raw");
        convert(&image, "qcow2", &raw.display().to_string(), "raw")?;
        check_clean(&raw)
    }

    /// Kills a guest's `coracle` this long after its start, and checks what it leaves.
    pub fn round(&mut self, guest: &Guest, delay: Duration) -> Round {
        let writing = self.write(guest).start();
        thread::sleep(delay);
        let killed: Finished = writing.kill();
        let console = killed.console();
        let acknowledged = self.acknowledge(&console);
        let mut lost = self.check(guest);
        if !killed.stderr.is_empty() || console.contains("failed: ") {
            lost.push(format!("the guest could not write\n{killed}"));
        }
        Round {
            how: How::Coracle,
            disk: DISKS[self.disk].into(),
            milliseconds: delay.as_millis() as u64,
            acknowledged,
            lost,
            unclean: self.unclean(),
        }
    }
}

fn convert(from: &str, format: &str, to: &str, new_format: &str) -> Result<(), String> {
    images::run("qemu-img", &["convert", "-f", format, "-O", new_format, from, to]).map(drop)
}

/// The initrd that the guests of all rounds boot.
pub struct Guest {
    initrd: PathBuf,
    _scratch: TempDir,
}

impl Guest {
    pub fn new() -> Self {
        let scratch = images::scratch();
        Self {
            initrd: initrd_with_records(&scratch),
            _scratch: scratch,
        }
    }
}

/// The numbers in lines `WORD STREAM NUMBER .`. Lines into which the kernel printed a message do not count.
fn numbers<'a>(console: &'a str, word: &'a str, stream: &'a str) -> impl Iterator<Item = u64> + 'a {
    // The last line may be without its end.
    let whole = &console[..console.rfind('\n').unwrap_or(0)];
    whole
        .lines()
        .filter_map(move |line| match line.split(' ').collect::<Vec<_>>()[..] {
            [first, second, number, "."] if (first, second) == (word, stream) => number.parse().ok(),
            _ => None,
        })
}
