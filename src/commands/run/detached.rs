//! `coracle run -d`: the guest's process leaves the terminal, and the process that the person started waits until the guest's
//! init runs.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Read, Write, pipe};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use super::Error;
use crate::commands::{print, system};
use crate::console::{For, tell, wait};
use crate::diagnosis::exit_code;
use crate::guests::Own;
use crate::logging;

/// How long the person waits for a guest that does not show that its init runs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of Coracle's messages that are shown.
const MESSAGES_MAX: usize = 64 << 10;

/// Signals by which a person gives a command up.
const GIVING_UP: [i32; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// The number of the process that runs the guest, in the one that the person started.
static GUEST: AtomicI32 = AtomicI32::new(0);

/// What a process has of the shell that started it, and keeps until it has opened what the person named, since /dev/fd/N and
/// relative paths are named by these.
pub struct Inherited(Vec<RawFd>);

impl Inherited {
    /// The descriptors that are open now, beside the standard streams. To be called before this process opens anything.
    pub fn note() -> Self {
        let entries = fs::read_dir("/proc/self/fd").into_iter().flatten();
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut numbers: Vec<RawFd> = numbers.filter(|&fd| fd > libc::STDERR_FILENO).collect();
        // The one by which the directory was read is closed now.
        // SAFETY: a system call without pointers.
        numbers.retain(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1);
        Self(numbers)
    }

    /// Lets go of the descriptors and of the directory.
    pub fn leave(self) -> io::Result<()> {
        for fd in self.0 {
            // SAFETY: nothing of this process owns a descriptor that was open before it began to open its own.
            unsafe { libc::close(fd) };
        }
        env::set_current_dir("/")
    }
}

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
            logging::limit();
            own.tell_starter(starter);
            Ok(Side::Guest(own))
        }
        guest => {
            pass_signals_on(guest);
            // These are the guest's process's now: its lock, and its end of the pipe.
            drop((own, starter));
            wait_for_init(guest, reports, &messages).map(Side::Starter)
        }
    }
}

/// Makes signals by which a person gives the start up end the guest's process as well.
fn pass_signals_on(guest: libc::pid_t) {
    /// The process has this number until its parent, this process, ends or waits for it.
    extern "C" fn pass_on(signal: i32) {
        // SAFETY: kill(2) may be called by a handler.
        unsafe { libc::kill(GUEST.load(Ordering::Relaxed), signal) };
    }
    GUEST.store(guest, Ordering::Relaxed);
    // It does not change errno, because the call cannot fail: the process exists.
    set_unless_ignored(pass_on as *const () as libc::sighandler_t);
}

/// Makes signals act on this process alone.
fn pass_no_signals_on() {
    set_unless_ignored(libc::SIG_DFL);
}

/// Signals that are ignored stay so, as nohup wants it.
fn set_unless_ignored(action: libc::sighandler_t) {
    for signal in GIVING_UP {
        // SAFETY: the only handler makes a system call and reads an atomic.
        unsafe {
            if libc::signal(signal, action) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
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
    // From here on the guest goes on, or has ended.
    if !matches!(start, Start::Ended(_)) {
        pass_no_signals_on();
    }
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
    // SAFETY: zeroes are a valid siginfo_t.
    let mut end: libc::siginfo_t = unsafe { mem::zeroed() };
    // With WNOWAIT the process keeps its number, to which signals may be passed on.
    // SAFETY: the pointer is to a variable that outlives the call.
    while unsafe { libc::waitid(libc::P_PID, guest as u32, &mut end, libc::WEXITED | libc::WNOWAIT) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: waitid(2) has filled in the fields of a child that has ended.
    let status = unsafe { end.si_status() };
    if end.si_code == libc::CLD_EXITED {
        return Ok(status as u8);
    }
    let signal = status;
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
