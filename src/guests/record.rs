//! What is written down of a guest in its directory, as JSON. Whoever reads it believes nothing of it: it is only shown.

use std::fs::File;
use std::io::{self, Read};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::boot::parameters;
use crate::config::Config;

/// How many bytes of a record are read. What Coracle writes is shorter, unless a command line is very long.
const SIZE_MAX: u64 = 64 << 10;

/// What a guest was made of: `guest.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Made {
    /// The version of Coracle that runs it.
    pub coracle: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The kernel's file; none means the built-in one.
    pub kernel: Option<String>,
    pub initrd: Option<String>,
    /// What the person added to the kernel command line.
    pub cmdline: String,
    pub cpus: u8,
    /// In bytes.
    pub memory: u64,
    pub disks: Vec<String>,
    /// Nothing of the guest is to be left when it has ended.
    pub remove: bool,
}

/// How a guest ended: `exit.json`. That file is empty until the guest runs (`write_runs`), and then has no record until the end.
/// When the guest's process is killed, it stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// When, in seconds since 1970.
    pub ended: u64,
    /// The exit code of `coracle run`.
    pub exit_code: u8,
    /// Whether the guest ran at all. If not, nothing of it is to be left.
    pub ran: bool,
    /// What `coracle run` printed about the end.
    pub explanation: Option<String>,
}

impl Made {
    /// The record of a guest that is made of `config` now.
    pub fn of(config: &Config, remove: bool) -> Self {
        let text = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
        Self {
            coracle: env!("CARGO_PKG_VERSION").into(),
            created: now(),
            kernel: config.kernel.as_ref().map(text),
            initrd: config.initrd.as_ref().map(text),
            cmdline: config.cmdline.clone(),
            cpus: config.cpus,
            memory: config.memory.0,
            disks: config.disks.iter().map(|disk| text(&disk.file)).collect(),
            remove,
        }
    }

    /// The command that the command line has for init.
    pub fn command(&self) -> &str {
        parameters::split(&self.cmdline).1.trim()
    }
}

/// Reads a record. None if there is none, or if it is not what Coracle writes.
pub fn read<T: for<'a> Deserialize<'a>>(file: File) -> Option<T> {
    let mut text = Vec::new();
    file.take(SIZE_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Notes in `exit.json` that the guest runs: an empty line, which is not in the way of a record behind it.
pub fn write_runs(file: &mut File) -> io::Result<()> {
    io::Write::write_all(file, b"\n")
}

pub fn write(file: &mut File, record: &impl Serialize) -> io::Result<()> {
    // In one piece, so that nobody reads a part of it.
    let text = serde_json::to_vec_pretty(record)?;
    io::Write::write_all(file, &text)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
