//! Programs that keep credentials: `docker-credential-NAME`, which are told on stdin and answer on stdout.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, invalid, shortened};

/// A program may ask a person for a password.
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_MAX: u64 = 64 << 10;
/// What the programs say of a registry that they know nothing of.
const NOT_FOUND: &str = "credentials not found";

/// One of these programs.
pub(super) struct Helper {
    program: OsString,
    name: String,
    pub(super) patience: Duration,
}

/// What the programs are told and say.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Kept {
    #[serde(rename = "ServerURL", default)]
    pub server: String,
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub secret: String,
}

impl Helper {
    /// Found as programs are, by PATH, unless `directory` is given.
    pub(super) fn new(name: &str, directory: Option<&std::path::Path>) -> Result<Self> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_word) {
            return Err(invalid(format!(
                "'{}' is no name of a credential helper",
                shortened(name)
            )));
        }
        let program = format!("docker-credential-{name}");
        Ok(Self {
            program: directory.map_or_else(
                || program.clone().into(),
                |directory| directory.join(&program).into(),
            ),
            name: program,
            patience: PATIENCE,
        })
    }

    /// What is kept for a registry, if anything is.
    pub(super) fn get(&self, server: &str) -> Result<Option<Kept>> {
        let (is_well, answer) = self.run("get", server.as_bytes())?;
        if !is_well {
            return match answer.to_ascii_lowercase().contains(NOT_FOUND) {
                true => Ok(None),
                false => Err(self.wrong(&answer)),
            };
        }
        let kept = serde_json::from_str(&answer);
        // Whatever it said may be half a password.
        kept.map(Some)
            .map_err(|_| self.wrong("its answer is not the JSON that it should be"))
    }

    pub(super) fn store(&self, kept: &Kept) -> Result<()> {
        let text = serde_json::to_vec(kept).map_err(|error| self.wrong(&error.to_string()))?;
        match self.run("store", &text)? {
            (true, _) => Ok(()),
            (false, answer) => Err(self.wrong(&answer)),
        }
    }

    /// False if there was nothing.
    pub(super) fn erase(&self, server: &str) -> Result<bool> {
        match self.run("erase", server.as_bytes())? {
            (true, _) => Ok(true),
            (false, answer) if answer.to_ascii_lowercase().contains(NOT_FOUND) => Ok(false),
            (false, answer) => Err(self.wrong(&answer)),
        }
    }

    /// Whether the program ended well, and what it said.
    fn run(&self, verb: &str, input: &[u8]) -> Result<(bool, String)> {
        let deadline = Instant::now() + self.patience;
        let mut command = Command::new(&self.program);
        command
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                self.wrong("it is not installed; install it, or take it out of Docker's config.json")
            }
            _ => self.wrong(&error.to_string()),
        })?;
        let answer = self.talk(&mut child, input, deadline);
        if answer.is_err() {
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| self.wrong(&error.to_string()))?;
        Ok((status.success(), answer?))
    }

    /// What the program says until it ends.
    fn talk(&self, child: &mut Child, input: &[u8], deadline: Instant) -> Result<String> {
        let slow = || self.wrong(&format!("it did not answer within {} s", self.patience.as_secs()));
        let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, receiver) = mpsc::channel();
        let input = input.to_vec();
        // Neither thread outlives the program's ends of the pipes by long: it is killed if it is slow.
        thread::spawn(move || {
            if let Some(stdin) = &mut stdin {
                // A program that has seen enough may have gone.
                let _ = stdin.write_all(&input);
            }
        });
        thread::spawn(move || {
            let mut answer = Vec::new();
            let read = stdout.map_or(Ok(0), |stdout| {
                stdout.take(ANSWER_MAX + 1).read_to_end(&mut answer)
            });
            let _ = sender.send(read.map(|_| answer));
        });
        let left = || deadline.saturating_duration_since(Instant::now());
        let answer = receiver.recv_timeout(left()).map_err(|_| slow())?;
        let answer = answer.map_err(|error| self.wrong(&error.to_string()))?;
        if answer.len() as u64 > ANSWER_MAX {
            return Err(self.wrong("its answer has more than 64 KiB"));
        }
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(slow)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| self.wrong(&error.to_string()))?;
        let timeout = Timespec::try_from(left()).unwrap_or_default();
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(_) => Err(slow()),
            Ok(_) => Ok(String::from_utf8_lossy(&answer).trim().to_owned()),
        }
    }

    fn wrong(&self, why: &str) -> Error {
        Error::Denied(format!(
            "cannot use the credential helper {}: {}",
            self.name,
            shortened(why)
        ))
    }
}
