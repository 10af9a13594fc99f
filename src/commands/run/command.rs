//! The command of `coracle run [OPTIONS] -- COMMAND`, and the options that are about it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read, stdin, stdout};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use coracle_agent_protocol::{Program, WindowSize};

use super::super::Error;
use crate::config::{Config, OnReboot};
use crate::console::terminal_size;

/// The size of a terminal that nobody knows the size of.
const USUAL_SIZE: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};
/// The kind of terminal when the environment does not say, as Docker has it.
const USUAL_TERM: &str = "xterm";
/// Bytes that a file of variables may have. It bounds what is read of a device that has no end.
const ENV_FILE_MAX: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub struct Command {
    /// A variable of COMMAND's environment; again for more. NAME alone takes the value that it has here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", requires = "words")]
    env: Vec<OsString>,

    /// A file of variables, a line each, as --env has them; lines that begin with # are comments
    #[arg(long, value_name = "FILE", requires = "words")]
    env_file: Vec<PathBuf>,

    /// The directory in which COMMAND starts [default: /]
    #[arg(short, long, value_name = "DIR", requires = "words")]
    workdir: Option<OsString>,

    /// The user of the guest, and the group, as which COMMAND runs, by name or number [default: root]
    #[arg(short = 'u', value_name = "USER[:GROUP]", requires = "words")]
    guest_user: Option<OsString>,

    /// Give COMMAND a terminal, even if stdin or stdout is none
    #[arg(short, long)]
    tty: bool,

    /// Nothing, as stdin always reaches COMMAND; for fingers that type -it
    #[arg(short, long)]
    interactive: bool,

    /// The guest's name for itself
    #[arg(long, value_name = "NAME", requires = "words")]
    hostname: Option<OsString>,

    /// Show the guest's console on stderr, with what its kernel says
    #[arg(long, requires = "words")]
    pub console: bool,

    /// A command for the built-in guest, and its arguments: coracle exits with its status
    #[arg(last = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

impl Command {
    /// Whether there is a command.
    pub fn is_given(&self) -> bool {
        !self.words.is_empty()
    }

    /// The command as the agent gets it; nothing if there is none. `config` is checked, and gets what a command needs.
    pub fn program(&self, config: &mut Config) -> Result<Option<Program>, Error> {
        if !self.is_given() {
            return Ok(None);
        }
        let refused = |why: &str| Err(Error::Command(why.into()));
        if config.kernel.is_some() || config.initrd.is_some() {
            return refused("a command runs in the built-in guest: leave out --kernel and --initrd");
        }
        if config.on_reboot == OnReboot::Restart {
            return refused("a command runs once: leave out --on-reboot restart");
        }
        let (_, other) = crate::boot::parameters::split(&config.cmdline);
        if !other.trim().is_empty() {
            return refused("there are two commands: leave out the one in --cmdline");
        }
        config.vsock.get_or_insert_default();

        let is_terminal = self.tty || stdin().is_terminal() && stdout().is_terminal();
        let size = || terminal_size().map_or(USUAL_SIZE, |(rows, columns)| WindowSize { rows, columns });
        let mut environment = Vec::new();
        if is_terminal {
            let term = env::var_os("TERM").filter(|term| !term.is_empty());
            let term = term.unwrap_or_else(|| USUAL_TERM.into());
            environment.push([b"TERM=", term.as_bytes()].concat());
        }
        for file in &self.env_file {
            let text = read(file).map_err(|source| Error::EnvFile {
                file: file.clone(),
                source,
            })?;
            let lines = text
                .split(|byte| *byte == b'\n')
                .map(|line| line.trim_ascii_start());
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
            environment.extend(lines.filter_map(variable));
        }
        environment.extend(self.env.iter().filter_map(|entry| variable(entry.as_bytes())));
        if environment.iter().any(|entry| entry.starts_with(b"=")) {
            return refused("a variable needs a name: -e NAME=VALUE");
        }
        let bytes = |text: &Option<OsString>| text.clone().map(OsString::into_vec);
        if self
            .hostname
            .as_ref()
            .is_some_and(|name| !(1..=64).contains(&name.len()))
        {
            return refused("a host name has 1 to 64 bytes");
        }
        Ok(Some(Program {
            arguments: self.words.iter().cloned().map(OsString::into_vec).collect(),
            environment,
            directory: bytes(&self.workdir),
            user: bytes(&self.guest_user),
            host_name: bytes(&self.hostname),
            terminal: is_terminal.then(size),
        }))
    }
}

/// `NAME=VALUE`, or `NAME` with the value that it has here. Nothing if it has none.
fn variable(entry: &[u8]) -> Option<Vec<u8>> {
    if entry.contains(&b'=') {
        return Some(entry.to_vec());
    }
    let value = env::var_os(OsStr::from_bytes(entry))?;
    Some([entry, b"=", value.as_bytes()].concat())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(ENV_FILE_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > ENV_FILE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 1 MiB",
        ));
    }
    if text.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it has a zero byte in it",
        ));
    }
    Ok(text)
}
