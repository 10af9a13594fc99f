//! Runs the half of a benchmark that belongs into a nested machine, on the deterministic clock.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;

/// The nested machines, as tests/nested/run names them.
pub const AMD: &str = "amd";

/// The top of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program of the source tree. Its failure is an error.
pub fn call(program: &str, arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    match Command::new(root().join(program)).args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        ended => Err(format!("{program}: {ended:?}").into()),
    }
}

/// Runs this program with `flag` in the nested machine `name`, with `files` put inside, each from here to there, and
/// returns what it printed, JSON.
pub fn run<T: DeserializeOwned>(
    name: &str,
    files: &[(PathBuf, &str)],
    flag: &str,
) -> Result<T, Box<dyn Error>> {
    let mut machine = Command::new(root().join("tests/nested/run"));
    machine.args([&format!("--{name}"), "--deterministic"]);
    let this = (env::current_exe()?, "/bench");
    for (outside, inside) in files.iter().chain([&this]) {
        let outside = outside.canonicalize()?;
        machine
            .arg("--file")
            .arg(format!("{}:{inside}", outside.display()));
    }
    let ended = machine
        .args(["--", "/bench", flag])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !ended.status.success() {
        return Err(format!("the nested machine {name} ended with {}", ended.status).into());
    }
    Ok(serde_json::from_slice(&ended.stdout)?)
}
