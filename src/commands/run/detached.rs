//! `coracle run -d`: the guest's process leaves the terminal, and the process that the person started waits until the guest's
//! init runs.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::Error;
use crate::commands::{print, system};
use crate::console::{For, tell, wait};
use crate::diagnosis::exit_code;
use crate::guests::Own;

/// How long the person waits for a guest that does not show that its init runs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of Coracle's messages that are shown.
const MESSAGES_MAX: usize = 64 << 10;

/// Which of the two processes this is.
pub enum Side {
    /// The one that runs the guest.
    Guest(Own),
    /// The one that the person started. Its work is done; this is its exit code.
    Starter(u8),
}

/// Makes another process, which is to run the guest. To be called before any thread is started.
pub fn detach(mut own: Own) -> Result<Side, Error> {
    let what = "put the guest into the background";
    let messages = own.make_message_log()?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(system(what))?;
    let (reports, starter) = pipe().map_err(system(what))?;
    // SAFETY: no other thread runs that could hold a lock. The signal's default is restored so that waitpid(2) finds the child.
    match unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::fork()
    } {
        -1 => Err(system(what)(io::Error::last_os_error())),
        0 => {
            leave_terminal(&null, &messages).map_err(system(what))?;
            own.tell_starter(starter);
            Ok(Side::Guest(own))
        }
        guest => {
            // These are the guest's process's now: its lock, and its end of the pipe.
            drop((own, starter));
            wait_for_init(guest, reports, &messages).map(Side::Starter)
        }
    }
}

fn leave_terminal(null: &File, messages: &File) -> io::Result<()> {
    // SAFETY: system calls without pointers. Nobody uses the three descriptors at this moment.
    let results = unsafe {
        [
            libc::setsid(),
            libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO),
            libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO),
            libc::dup2(messages.as_raw_fd(), libc::STDERR_FILENO),
        ]
    };
    match results.contains(&-1) {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

/// What is known of the guest's start. A guest has its name once everything is open that it needs.
enum Start {
    InitRuns(String),
    /// The guest runs, but did not show that its init does.
    NotShown(String),
    Ended(Option<String>),
}

/// Waits until init runs or the guest's process has ended. Shows the messages of that process, and prints the guest's name if
/// it has started.
fn wait_for_init(guest: libc::pid_t, reports: PipeReader, messages: &File) -> Result<u8, Error> {
    let what = "wait for the guest's start";
    let start = read_reports(reports).map_err(system(what))?;
    let (name, code) = match start {
        Start::InitRuns(name) => (Some(name), 0),
        Start::NotShown(name) => {
            tell(format_args!(
                "coracle: guest '{name}' runs, but in {} s nothing showed that its init does (coracle logs {name} prints what \
                 it says)",
                PATIENCE.as_secs()
            ));
            (Some(name), 0)
        }
        Start::Ended(name) => (name, wait_for_exit(guest).map_err(system(what))?),
    };
    show(messages);
    match (name, code) {
        (Some(name), 0) => print("print the guest's name", format!("{name}\n")).map(|()| 0),
        (_, code) => Ok(code),
    }
}

fn read_reports(mut reports: PipeReader) -> io::Result<Start> {
    let Some(name) = read_line(&mut reports, None)? else {
        return Ok(Start::Ended(None));
    };
    match read_line(&mut reports, Some(PATIENCE)) {
        Ok(Some(_)) => Ok(Start::InitRuns(name)),
        Ok(None) => Ok(Start::Ended(Some(name))),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Start::NotShown(name)),
        Err(error) => Err(error),
    }
}

/// Reads a line, or nothing if the other end is closed before.
fn read_line(reports: &mut PipeReader, patience: Option<Duration>) -> io::Result<Option<String>> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    let mut line = String::new();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if let [false] = wait([Some(For::Reading(reports.as_fd()))], left)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut byte = [0];
        match reports.read(&mut byte)? {
            0 => return Ok(None),
            _ if byte == *b"\n" => return Ok(Some(line)),
            _ => line.push(char::from(byte[0])),
        }
    }
}

/// Waits for the end of the guest's process, and gives its exit code.
fn wait_for_exit(guest: libc::pid_t) -> io::Result<u8> {
    let mut status = 0;
    // SAFETY: the pointer is to a variable that outlives the call.
    while unsafe { libc::waitpid(guest, &mut status, 0) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if !libc::WIFSIGNALED(status) {
        return Ok(libc::WEXITSTATUS(status) as u8);
    }
    let signal = libc::WTERMSIG(status);
    tell(format_args!(
        "coracle: the guest's process was ended by signal {signal}"
    ));
    Ok(exit_code::from_signal(signal))
}

/// Prints on stderr what the guest's process has written there so far.
fn show(messages: &File) {
    let mut text = vec![0; MESSAGES_MAX];
    let count = messages.read_at(&mut text, 0).unwrap_or(0);
    // If stderr is closed, nobody is there to be told.
    let _ = io::stderr().write_all(&text[..count]);
}
