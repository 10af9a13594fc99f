//! What is written down of a guest in its directory, as JSON. Whoever reads it believes nothing of it: it is shown, and what it says
//! of the guest's program goes for the programs that are run beside it.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::time::SystemTime;

use coracle_agent_protocol::{FRAME_MAX, Program};
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::boot::parameters;
use crate::config::Config;

/// How many bytes of a record are read. What Coracle writes is shorter: a program fits into a frame, and no byte of it takes more
/// than the 6 of a control character.
const MADE_MAX: u64 = 7 * FRAME_MAX as u64;
/// The same for how a guest ended.
const ENDED_MAX: u64 = 64 << 10;

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
    /// The program that the guest is for, if it is for one.
    pub program: Option<MadeFor>,
    /// Nothing of the guest is to be left when it has ended.
    pub remove: bool,
}

/// The program that a guest is for, as [`Program`] has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MadeFor {
    pub arguments: Vec<Text>,
    pub environment: Vec<Text>,
    pub directory: Option<Text>,
    pub user: Option<Text>,
}

/// Bytes that are a text nearly always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
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
    pub fn of(config: &Config, program: Option<&Program>, remove: bool) -> Self {
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
            program: program.map(MadeFor::of),
            remove,
        }
    }

    /// The command that the guest is for: its program, or what the command line has for init.
    pub fn command(&self) -> String {
        match &self.program {
            Some(program) => {
                let words: Vec<_> = program.arguments.iter().map(Text::lossy).collect();
                words.join(" ")
            }
            None => parameters::split(&self.cmdline).1.trim().to_owned(),
        }
    }
}

impl MadeFor {
    /// The program, if it is one that could run.
    pub fn program(self) -> Result<Program, coracle_agent_protocol::Error> {
        let texts = |all: Vec<Text>| all.into_iter().map(Text::into).collect();
        let program = Program {
            arguments: texts(self.arguments),
            environment: texts(self.environment),
            directory: self.directory.map(Text::into),
            user: self.user.map(Text::into),
            ..Program::default()
        };
        program.check().map(|()| program)
    }

    fn of(program: &Program) -> Self {
        let texts = |all: &[Vec<u8>]| all.iter().cloned().map(Text::from).collect();
        Self {
            arguments: texts(&program.arguments),
            environment: texts(&program.environment),
            directory: program.directory.clone().map(Text::from),
            user: program.user.clone().map(Text::from),
        }
    }
}

impl<'a> Deserialize<'a> for Text {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'a> Visitor<'a> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or its bytes")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text::Utf8(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut bytes: A) -> Result<Text, A::Error> {
        let mut read = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            read.push(byte);
        }
        Ok(Text::Bytes(read))
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Bytes(error.into_bytes()), Self::Utf8)
    }
}

impl From<Text> for Vec<u8> {
    fn from(text: Text) -> Self {
        match text {
            Text::Utf8(text) => text.into_bytes(),
            Text::Bytes(bytes) => bytes,
        }
    }
}

impl Text {
    fn lossy(&self) -> Cow<'_, str> {
        match self {
            Self::Utf8(text) => text.into(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes),
        }
    }
}

/// What a guest was made of. None if that is not what Coracle writes.
pub fn read_made(file: File) -> Option<Made> {
    read(file, MADE_MAX)
}

/// How a guest ended. None if it has not, or if that is not what Coracle writes.
pub fn read_ended(file: File) -> Option<Ended> {
    read(file, ENDED_MAX)
}

fn read<T: DeserializeOwned>(file: File, size_max: u64) -> Option<T> {
    let mut text = Vec::new();
    file.take(size_max).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Notes in `exit.json` that the guest runs: an empty line, which is not in the way of a record behind it.
pub fn write_runs(file: &mut File) -> io::Result<()> {
    io::Write::write_all(file, b"\n")
}

pub fn write(file: &mut File, record: &impl Serialize) -> io::Result<()> {
    // In one piece, so that nobody reads a part of it.
    let text = serde_json::to_vec(record)?;
    io::Write::write_all(file, &text)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_written_down_byte_by_byte() {
        let program = Program {
            arguments: vec![b"printf".to_vec(), "\u{e9}\n".into(), b"\xff".to_vec()],
            environment: vec![b"A=\x80".to_vec(), b"B=".to_vec()],
            directory: Some(b"/tmp".to_vec()),
            ..Program::default()
        };
        let made = Made::of(&Config::default(), Some(&program), false);
        let written = serde_json::to_string(&made).unwrap();
        let read: Made = serde_json::from_str(&written).unwrap();
        assert_eq!(read, made);
        assert_eq!(read.command(), "printf \u{e9}\n \u{fffd}");
        assert_eq!(read.program.unwrap().program().unwrap(), program);
    }

    #[test]
    fn the_longest_program_is_read_again() {
        let program = Program {
            arguments: vec![vec![0xff; FRAME_MAX]],
            ..Program::default()
        };
        let made = Made::of(&Config::default(), Some(&program), false);
        let mut file = tempfile::tempfile().unwrap();
        write(&mut file, &made).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        assert_eq!(read_made(file), Some(made));
    }
}
