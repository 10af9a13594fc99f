//! What `run -- COMMAND` and `exec` say of a program in a guest: its environment, its directory and its terminal.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use coracle_agent_protocol::WindowSize;

use super::Error;
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
pub struct Environment {
    /// A variable of COMMAND's environment; again for more. NAME alone takes the value that it has here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", requires = "program")]
    env: Vec<OsString>,

    /// A file of variables, a line each, as --env has them; lines that begin with # are comments
    #[arg(long, value_name = "FILE", requires = "program")]
    env_file: Vec<PathBuf>,

    /// The directory in which COMMAND starts [default: /]
    #[arg(short, long, value_name = "DIR", requires = "program")]
    pub workdir: Option<OsString>,
}

impl Environment {
    /// The variables, for a program with a terminal or without. Those of its `image` count less than the person's.
    pub fn variables(&self, has_terminal: bool, image: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
        let mut variables = Vec::new();
        if has_terminal {
            let term = env::var_os("TERM").filter(|term| !term.is_empty());
            let term = term.unwrap_or_else(|| USUAL_TERM.into());
            variables.push([b"TERM=", term.as_bytes()].concat());
        }
        variables.extend(image);
        for file in &self.env_file {
            let text = read(file).map_err(|source| Error::EnvFile {
                file: file.clone(),
                source,
            })?;
            let lines = text
                .split(|byte| *byte == b'\n')
                .map(|line| line.trim_ascii_start());
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
            variables.extend(lines.filter_map(variable));
        }
        variables.extend(self.env.iter().filter_map(|entry| variable(entry.as_bytes())));
        match variables.iter().any(|entry| entry.starts_with(b"=")) {
            true => Err(Error::Command("a variable needs a name: -e NAME=VALUE".into())),
            false => Ok(variables),
        }
    }
}

/// The size of a program's terminal: that of the person's, if there is one.
pub fn window_size() -> WindowSize {
    terminal_size().map_or(USUAL_SIZE, |(rows, columns)| WindowSize { rows, columns })
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
