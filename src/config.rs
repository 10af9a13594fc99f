//! What a machine is made of: plain data, parsed and validated here and nowhere else.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

/// Bytes in one MiB.
pub const MIB: u64 = 1 << 20;

/// Guest memory limits, in bytes. The upper one is what 40-bit guest addresses leave room for.
const MEMORY_MIN: u64 = 32 * MIB;
const MEMORY_MAX: u64 = 1 << 39;
/// vCPUs a machine may have.
pub const CPUS_MAX: u8 = 32;
/// Disks a machine may have: one interrupt line each, and the entropy device has one.
pub const DISKS_MAX: usize = 16;
/// Virtio 1.2 section 5.2.6.1: the ID string of a disk is 20 bytes.
const DISK_ID_MAX: usize = 20;
/// Queues a disk may have: each costs an I/O thread.
const DISK_QUEUES_MAX: u16 = 32;
/// Queues a disk has at most unless told otherwise: more threads than that do not make a disk faster.
pub const DISK_QUEUES_DEFAULT_MAX: u16 = 4;
/// What `backing=` says when it permits every file.
const ANY: &str = "any";
const DISK_OPTIONS: &str = "'ro', 'id=NAME', 'engine=auto|sync|uring', 'cache=writeback|direct|writethrough', \
                            'queues=N', 'ephemeral', 'format=raw|qcow2' and 'backing=FILE' or 'backing=any'";

/// Everything a person chose about a machine. As JSON, its keys are the names of the flags of `coracle run`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Config {
    /// Kernel image; none means the built-in guest's.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk; none means the built-in one with the built-in kernel, no initrd otherwise.
    pub initrd: Option<PathBuf>,
    /// Text added to the end of the kernel command line.
    pub cmdline: String,
    /// Number of vCPUs.
    pub cpus: u8,
    /// Guest memory.
    pub memory: Size,
    /// Disks, in the order in which the guest sees them.
    #[serde(rename = "disk")]
    pub disks: Vec<Disk>,
    /// What a guest's reboot does.
    pub on_reboot: OnReboot,
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
            memory: Size(128 * MIB),
            disks: Vec::new(),
            on_reboot: OnReboot::Exit,
            no_escape: false,
        }
    }
}

/// A number of bytes, written `536870912`, `512M`, `512MiB` or `2G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
pub struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number of bytes, or a text such as \"512M\"")]
enum SizeText {
    Bytes(u64),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = Error;

    fn try_from(text: SizeText) -> Result<Self, Error> {
        match text {
            SizeText::Bytes(bytes) => Ok(Self(bytes)),
            SizeText::Text(text) => text.parse(),
        }
    }
}

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

/// A disk, written `FILE[,ro][,id=NAME][,engine=E][,cache=C][,queues=N][,ephemeral][,format=F][,backing=FILE]...`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Image or block device.
    pub file: PathBuf,
    /// The guest cannot write it.
    #[serde(default)]
    pub ro: bool,
    /// What the guest reads as the disk's serial.
    #[serde(default)]
    pub id: Option<String>,
    /// How requests are carried to the host's kernel.
    #[serde(default)]
    pub engine: Engine,
    /// What is kept where before it is durable.
    #[serde(default)]
    pub cache: Cache,
    /// Request queues; none means one for each vCPU, up to [`DISK_QUEUES_DEFAULT_MAX`].
    #[serde(default)]
    pub queues: Option<u16>,
    /// What the guest writes is gone at the end of the run, and the file stays as it is.
    #[serde(default)]
    pub ephemeral: bool,
    /// What the file is; none means by its name.
    #[serde(default)]
    pub format: Option<Format>,
    /// Which files the image may have opened as its backing files.
    #[serde(default)]
    pub backing: Backing,
}

/// The files that an image may name as lying under it, and have opened for reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BackingText")]
pub enum Backing {
    /// Images that lie in the same directory as the one that names them.
    #[default]
    Beside,
    /// These files and no other.
    Named(Vec<PathBuf>),
    /// Whatever the image says.
    Any,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a list of files, or \"any\"")]
enum BackingText {
    Files(Vec<PathBuf>),
    Word(String),
}

impl TryFrom<BackingText> for Backing {
    type Error = String;

    fn try_from(text: BackingText) -> Result<Self, String> {
        match text {
            BackingText::Files(files) => Ok(Self::Named(files)),
            BackingText::Word(word) if word == ANY => Ok(Self::Any),
            BackingText::Word(file) => Err(format!(
                "backing files are a list: write [{file:?}], or \"any\" for whatever the image names"
            )),
        }
    }
}

impl Backing {
    /// Adds what one `backing=` of the command line says.
    fn add(&mut self, value: &str) -> Result<(), String> {
        match (&mut *self, value) {
            (_, "") => return Err("'backing=' needs the name of a file, or 'any'".into()),
            (Self::Beside | Self::Any, ANY) => *self = Self::Any,
            (Self::Beside, file) => *self = Self::Named(vec![file.into()]),
            (Self::Named(files), file) if file != ANY => files.push(file.into()),
            _ => {
                return Err(
                    "'backing=any' takes whatever the image names, so it stands alone (a file of that name is \
                     'backing=./any')"
                        .into(),
                );
            }
        }
        Ok(())
    }
}

/// How a disk's requests are carried to the host's kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Whichever suits the file.
    #[default]
    Auto,
    /// One after the other, a system call each.
    Sync,
    /// Many at once, by io_uring.
    Uring,
}

/// What is kept where before it is durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    /// In the host's page cache until the guest flushes.
    #[default]
    Writeback,
    /// Past the host's page cache; in the device's own cache until the guest flushes.
    Direct,
    /// Nowhere: each write is durable before the guest hears of it.
    Writethrough,
}

/// What a disk's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's format, version 2 or 3, with or without a backing file.
    Qcow2,
}

/// As it is written on the command line.
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
    /// The plainest disk that `file` can be.
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            ro: false,
            id: None,
            engine: Engine::default(),
            cache: Cache::default(),
            queues: None,
            ephemeral: false,
            format: None,
            backing: Backing::default(),
        }
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
            return wrong("nothing of an ephemeral disk is kept, so it takes no 'cache'".into());
        }
        if self.engine == Engine::Uring && (self.ephemeral || self.format == Some(Format::Qcow2)) {
            return wrong(
                "'engine=uring' is for raw images that are not ephemeral: leave the engine out".into(),
            );
        }
        Ok(())
    }
}

impl FromStr for Disk {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why: String| Error::Disk {
            disk: text.to_owned(),
            why,
        };
        let mut parts = text.split(',');
        let file = parts
            .next()
            .filter(|file| !file.is_empty())
            .ok_or_else(|| wrong("it names no file".into()))?;
        let mut disk = Self::new(file.into());
        for option in parts {
            match option.split_once('=') {
                None if option == "ro" => disk.ro = true,
                None if option == "ephemeral" => disk.ephemeral = true,
                Some(("id", id)) => disk.id = Some(id.to_owned()),
                Some(("engine", value)) => disk.engine = one_of(value).map_err(wrong)?,
                Some(("cache", value)) => disk.cache = one_of(value).map_err(wrong)?,
                Some(("format", value)) => disk.format = Some(one_of(value).map_err(wrong)?),
                Some(("backing", value)) => disk.backing.add(value).map_err(wrong)?,
                Some(("queues", value)) => {
                    let number = value
                        .parse()
                        .map_err(|_| wrong(format!("'{value}' is no number of queues")))?;
                    disk.queues = Some(number);
                }
                _ => {
                    return Err(wrong(format!(
                        "'{option}' is no option of a disk: they are {DISK_OPTIONS} (a file whose name has a comma \
                         goes into --config)"
                    )));
                }
            }
        }
        Ok(disk)
    }
}

/// The value of an option that has few.
fn one_of<T: clap::ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let values = T::value_variants().iter().filter_map(T::to_possible_value);
        let names: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        format!("'{text}' is none of {}", names.join(", "))
    })
}

/// What a guest's reboot does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnReboot {
    /// Ends the run with its own exit code.
    Exit,
    /// Boots the machine again.
    Restart,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration {} is not valid: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("'{0}' is not a size: give a number with a unit, for example 512M or 2G")]
    Size(String),
    #[error("memory of {0} bytes is out of range: a guest can have from 32M to 512G")]
    Memory(u64),
    #[error("memory of {0} bytes is not a multiple of 4096: give whole MiB, for example 512M")]
    MemoryPages(u64),
    #[error("{0} vCPUs are out of range: a guest can have 1 to {CPUS_MAX}")]
    Cpus(u8),
    #[error("{0} disks are too many: a guest can have {DISKS_MAX}")]
    Disks(usize),
    #[error("cannot use the disk '{disk}': {why}")]
    Disk { disk: String, why: String },
}

impl Error {
    /// Whether a file that was named is not there.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Config {
    /// Reads a configuration from JSON. Unknown keys are errors that name them.
    pub fn from_json(path: &Path) -> Result<Self, Error> {
        let text = fs::read(path).map_err(|source| Error::Read {
            path: path.into(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|source| Error::Json {
            path: path.into(),
            source,
        })
    }

    /// Checks what single values cannot: ranges and combinations.
    pub fn validate(&self) -> Result<(), Error> {
        let Size(memory) = self.memory;
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&memory) {
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
