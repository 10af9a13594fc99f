//! What a machine is made of: plain data, parsed and validated here and nowhere else.

mod backing;
mod cpu;
mod disk_option;
mod file;
mod nearest;
mod user;
mod vsock;

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use backing::Backing;
pub use cpu::{Cpu, CpuFeature};
#[cfg(test)]
pub(crate) use disk_option::OPTIONS as DISK_OPTIONS;
pub use user::User;
pub use vsock::Vsock;

/// Bytes in one MiB.
pub const MIB: u64 = 1 << 20;

/// How much memory a guest can have, in bytes. Whether the host's processors reach the end of so much, which the hole for
/// devices moves up by a GiB, is checked when the machine is built: some have 39 address bits.
const MEMORY_RANGE: RangeInclusive<u64> = 32 * MIB..=1 << 39;
/// How many vCPUs a machine may have.
pub const CPUS_MAX: u8 = 32;
/// How many disks a machine may have: each needs an interrupt line, and so do the socket device and the entropy device.
pub const DISKS_MAX: usize = 16;
/// Virtio 1.2 section 5.2.6.1: the ID string of a disk is 20 bytes.
const DISK_ID_MAX: usize = 20;
/// How many queues a disk may have: each costs an I/O thread.
const DISK_QUEUES_MAX: u16 = 32;
/// What is written to an ephemeral disk takes up no more, unless the person says otherwise: its place may be the host's
/// memory.
pub const EPHEMERAL_LIMIT_DEFAULT: Size = Size(4 << 30);
/// What is written to an ephemeral disk is kept in blocks of so many bytes, so with less no write would succeed.
const EPHEMERAL_LIMIT_MIN: Size = Size(4096);
/// How many queues a disk has at most by default: more threads than that do not make a disk faster.
pub const DISK_QUEUES_DEFAULT_MAX: u16 = 4;

/// Everything that a person chose about a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Kernel image; none means the built-in guest's.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk; none means the built-in one with the built-in kernel, no initrd otherwise.
    pub initrd: Option<PathBuf>,
    /// Text added to the end of the kernel command line.
    pub cmdline: String,
    /// Number of vCPUs.
    pub cpus: u8,
    /// What the vCPUs can do.
    pub cpu: Cpu,
    /// Guest memory.
    pub memory: Size,
    /// Disks, in the order in which the guest sees them.
    pub disks: Vec<Disk>,
    /// The device by which programs of guest and host connect to each other.
    pub vsock: Option<Vsock>,
    /// What a guest's reboot does.
    pub on_reboot: OnReboot,
    /// How far this process is confined.
    pub confine: Confine,
    /// The user that this process becomes, if it is not to stay the one who started it.
    pub host_user: Option<User>,
    /// Passes Ctrl-A to the guest instead of taking it as the escape key.
    pub no_escape: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kernel: None,
            initrd: None,
            cmdline: String::new(),
            cpus: 1,
            cpu: Cpu::default(),
            memory: Size(128 * MIB),
            disks: Vec::new(),
            vsock: None,
            on_reboot: OnReboot::Exit,
            confine: Confine::Auto,
            host_user: None,
            no_escape: false,
        }
    }
}

/// A number of bytes, written `536870912`, `512M`, `512MiB` or `2G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Size(text.to_owned());
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let shift = match text[digits..].to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

/// Writes the size with the largest unit in which it is a whole number.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.trailing_zeros() {
            30..64 => write!(f, "{}G", self.0 >> 30),
            20..30 => write!(f, "{}M", self.0 >> 20),
            10..20 => write!(f, "{}K", self.0 >> 10),
            _ => write!(f, "{} bytes", self.0),
        }
    }
}

/// A disk, written `FILE[,OPTION]...`; `config/disk_option.rs` lists the options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Image or block device. Of a disk that is handed over, only the name by which people are told of it.
    pub file: PathBuf,
    /// Whether its files are handed over open to whoever opens the machine's files. If the disk is only read, its bytes are those
    /// of all these files, each filled up with zeroes to whole pages; if it is written, those of its only file.
    pub handed_over: bool,
    /// Whether it is read-only: the guest cannot write it.
    pub ro: bool,
    /// What the guest reads as the disk's serial.
    pub id: Option<String>,
    /// How requests reach the host's kernel.
    pub engine: Engine,
    /// Where a write waits until it is durable.
    pub cache: Cache,
    /// Number of request queues; none means one for each vCPU, up to [`DISK_QUEUES_DEFAULT_MAX`].
    pub queues: Option<u16>,
    /// Whether what the guest writes is thrown away at the end of the run, so that the file stays as it is.
    pub ephemeral: bool,
    /// What an ephemeral disk may take up of the host; none means [`EPHEMERAL_LIMIT_DEFAULT`].
    pub limit: Option<Size>,
    /// What the file is; none means that its name decides.
    pub format: Option<Format>,
    /// Which files the image may have opened as its backing files.
    pub backing: Backing,
    /// The file that has the data of a qcow2 image which keeps them outside of itself.
    pub data: Option<PathBuf>,
}

/// How a disk's requests reach the host's kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// Whichever suits the file.
    #[default]
    Auto,
    /// One request after the other, with a system call each.
    Sync,
    /// Many requests at once, by io_uring.
    Uring,
}

/// Where a write waits until it is durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Cache {
    /// In the host's page cache until the guest flushes.
    #[default]
    Writeback,
    /// Only in the device's own cache until the guest flushes: writes bypass the host's page cache.
    Direct,
    /// Nowhere: each write is durable before the guest learns that it is complete.
    Writethrough,
}

/// What a disk's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's format, version 2 or 3, with or without a backing file.
    Qcow2,
}

/// Writes the value as the command line has it.
impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Writeback => "writeback",
            Self::Direct => "direct",
            Self::Writethrough => "writethrough",
        })
    }
}

impl Disk {
    /// A disk of `file` with the default of every option.
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            handed_over: false,
            ro: false,
            id: None,
            engine: Engine::default(),
            cache: Cache::default(),
            queues: None,
            ephemeral: false,
            limit: None,
            format: None,
            backing: Backing::default(),
            data: None,
        }
    }

    /// A disk called `name`, whose files are handed over open.
    pub fn handed_over(name: PathBuf, ro: bool) -> Self {
        Self {
            handed_over: true,
            ro,
            format: Some(Format::Raw),
            ..Self::new(name)
        }
    }

    /// What the person says that the file is, by the option or by the file's name.
    pub fn stated_format(&self) -> Option<Format> {
        let is_named_qcow2 = self
            .file
            .extension()
            .is_some_and(|extension| extension == "qcow2");
        self.format.or(is_named_qcow2.then_some(Format::Qcow2))
    }

    /// What is written to it, if it is ephemeral, may take up so much.
    pub fn limit(&self) -> Size {
        self.limit.unwrap_or(EPHEMERAL_LIMIT_DEFAULT)
    }

    /// Whether nothing is ever written to its file.
    pub fn is_only_read(&self) -> bool {
        self.ro || self.ephemeral
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |why: String| {
            Err(Error::Disk {
                disk: self.file.display().to_string(),
                why,
            })
        };
        if let Some(id) = &self.id
            && (id.is_empty() || id.len() > DISK_ID_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return wrong(format!(
                "its id '{}' must be 1 to {DISK_ID_MAX} printable ASCII characters without blanks",
                id.escape_default()
            ));
        }
        if let Some(queues) = self.queues
            && !(1..=DISK_QUEUES_MAX).contains(&queues)
        {
            return wrong(format!("it can have 1 to {DISK_QUEUES_MAX} queues, not {queues}"));
        }
        if self.ephemeral && self.ro {
            return wrong("'ephemeral' is for writing, which 'ro' forbids: give one of them".into());
        }
        if self.ephemeral && self.cache != Cache::Writeback {
            return wrong(
                "nothing of an ephemeral disk is kept, so it takes no 'cache': leave it out".into(),
            );
        }
        if self.limit.is_some() && !self.ephemeral {
            return wrong("'limit' is for what is written to an ephemeral disk: add 'ephemeral'".into());
        }
        if self.limit().0 < EPHEMERAL_LIMIT_MIN.0 {
            return wrong(format!(
                "'limit' must be at least {EPHEMERAL_LIMIT_MIN}, or nothing could be written to it: give more, or 'ro' in \
                 place of 'ephemeral'"
            ));
        }
        let is_qcow2 = self.stated_format() == Some(Format::Qcow2);
        if self.data.is_some() && !is_qcow2 {
            return wrong(
                "'data' names the data file of a qcow2 image: leave it out, or add 'format=qcow2'".into(),
            );
        }
        if self.backing != Backing::Beside && !is_qcow2 {
            return wrong(
                "'backing' permits the files under a qcow2 image: leave it out, or add 'format=qcow2'".into(),
            );
        }
        let is_raw = !is_qcow2 && !self.ephemeral;
        if self.engine == Engine::Uring && !is_raw {
            return wrong(
                "'engine=uring' is for raw images that are not ephemeral: leave the engine out".into(),
            );
        }
        Ok(())
    }
}

/// What a guest's reboot does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnReboot {
    /// Ends the run with its own exit code.
    Exit,
    /// Boots the machine again.
    Restart,
}

/// How far the process is confined once everything that the machine needs is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Confine {
    /// As far as this host can.
    Auto,
    /// Wholly, or there is no run.
    Require,
    /// Not at all.
    Off,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration {path:?}: {source} (check the path)")]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration {path:?} cannot be used: {why}")]
    File { path: PathBuf, why: String },
    #[error("'{0}' is not a size: give a number with a unit, for example 512M or 2G")]
    Size(String),
    #[error("memory of {} is out of range: a guest can have from 32M to 512G{hint}", Size(*.0), hint = unit_forgotten(*.0))]
    Memory(u64),
    #[error("memory of {} is not a multiple of 4096: give whole MiB, for example 512M", Size(*.0))]
    MemoryPages(u64),
    #[error("{0} vCPUs are out of range: a guest can have 1 to {CPUS_MAX}")]
    Cpus(u8),
    #[error(
        "{0} disks are too many: a guest can have {DISKS_MAX} (leave some out, or make one image of several)"
    )]
    Disks(usize),
    #[error("cannot use the disk '{disk}': {why}")]
    Disk { disk: String, why: String },
}

/// The end of a message about too few bytes: if the number makes sense with a unit, or with another one than K, it is likely that
/// this was meant.
fn unit_forgotten(bytes: u64) -> String {
    let makes_sense = |mebibytes: u64| {
        let bytes = mebibytes.checked_mul(MIB);
        bytes.is_some_and(|bytes| MEMORY_RANGE.contains(&bytes))
    };
    match bytes {
        1..32 => format!("; did you mean {bytes}G?"),
        _ if bytes < MIB && bytes.is_multiple_of(1 << 10) && makes_sense(bytes >> 10) => {
            format!("; did you mean {}M?", bytes >> 10)
        }
        _ if makes_sense(bytes) => format!("; did you mean {bytes}M?"),
        _ => String::new(),
    }
}

impl Error {
    /// Whether a file that the person named does not exist.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Config {
    /// Reads a configuration file. Names of files in it that are relative start at its own directory.
    pub fn from_json(path: &Path) -> Result<Self, Error> {
        file::read(path)
    }

    /// Checks ranges, and combinations of several values.
    pub fn validate(&self) -> Result<(), Error> {
        let Size(memory) = self.memory;
        if !MEMORY_RANGE.contains(&memory) {
            return Err(Error::Memory(memory));
        }
        if !memory.is_multiple_of(4096) {
            return Err(Error::MemoryPages(memory));
        }
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return Err(Error::Cpus(self.cpus));
        }
        if self.disks.len() > DISKS_MAX {
            return Err(Error::Disks(self.disks.len()));
        }
        self.disks.iter().try_for_each(Disk::check)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
