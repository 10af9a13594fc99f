//! A parent that keeps the person's terminal. Where stdin is a terminal, the guest runs in a child process, and the process
//! that the shell has started does nothing but wait for it. When the child is killed (by SIGKILL, by the host for lack of
//! memory, by a fault), the parent gives the terminal back as the person had it, and says what happened.
//!
//! Both are in the shell's job, and many signals reach both. The parent passes each on through a pipe, and the child tells
//! those that it has got already (signals.rs). The end of the pipe tells the child that the parent is gone.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd};
use std::sync::OnceLock;
use std::time::Duration;
use std::{mem, ptr};

use libc::{SIGABRT, SIGCHLD, SIGCONT, SIGKILL, SIGSYS, SIGTERM, SIGTTIN, SIGTTOU, sigset_t};

use super::kept::Kept;
use super::signals::{is_caught, is_ignored};
use super::stderr::tell_at_once;
use super::terminal;
use super::wait::{For, wait};

/// What the child shares with its parent.
static SHARED: OnceLock<Shared> = OnceLock::new();

struct Shared {
    kept: &'static Kept,
    /// The numbers of signals, a byte each.
    passed_on: File,
}

/// What the child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It runs a guest.
    Guest,
    /// It shows the console of a guest that another process runs.
    Attached,
    /// It has a command run in such a guest.
    Command,
}

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Exited(i32),
    Killed(i32),
}

/// Leaves the calling process, which has no thread but the calling one, to keep the terminal, if there is one on stdin, and
/// returns in a child of it. Returns in the calling process if there is no terminal, or no child can be made. `restrict`
/// takes from the parent what it does not need; it gets the child's number.
pub fn leave_to_parent(work: Work, restrict: impl FnOnce(u32)) {
    let Ok(modes) = terminal::modes_now() else { return };
    match split() {
        Ok(Side::Child(shared)) => drop(SHARED.set(shared)),
        Ok(Side::Parent(mut parent)) => {
            terminal::keep(modes);
            restrict(parent.child as u32);
            let code = parent.wait(work);
            // SAFETY: the call does not return. The child has done what is to be done at the end.
            unsafe { libc::_exit(code) }
        }
        Err(error) => log::debug!("no process keeps the terminal: {error}"),
    }
}

/// Has the parent pass signals on, if there is one. Returns where it does that.
pub fn take_orders() -> Option<&'static File> {
    let shared = SHARED.get()?;
    shared.kept.set_takes_orders(true);
    Some(&shared.passed_on)
}

/// Has the parent send signals to this process as they are.
pub fn take_no_orders() {
    if let Some(shared) = SHARED.get() {
        shared.kept.set_takes_orders(false);
    }
}

/// Tells the parent how often this process has taken a signal that was not passed on.
pub fn keep_count(signal: i32, often: u64) {
    if let Some(shared) = SHARED.get() {
        shared.kept.set_count(signal, often);
    }
}

/// Keeps, where the parent finds it, what undoes the changes that the guest has made in the terminal. To be called by one thread.
pub fn keep(undo: impl FnOnce() -> Vec<u8>) {
    if let Some(shared) = SHARED.get() {
        shared.kept.set_undo(&undo());
    }
}

enum Side {
    Parent(Parent),
    Child(Shared),
}

struct Parent {
    child: libc::pid_t,
    /// The signals that are blocked, and taken one by one.
    taken: sigset_t,
    kept: &'static Kept,
    pass_on: File,
    /// How often each signal has come.
    counts: Vec<u64>,
}

fn split() -> io::Result<Side> {
    let kept = Kept::shared()?;
    let (passed_on, pass_on) = pipe()?;
    // SAFETY: signal, sigprocmask and fork touch no memory but the two sets, which are initialised before they are read. The
    // process has one thread, so the child may do what any process may.
    unsafe {
        // Where the parent ignores this signal, the kernel forgets a child at its end.
        libc::signal(SIGCHLD, libc::SIG_DFL);
        // This one alone always ends a run (signals.rs).
        libc::signal(SIGTERM, libc::SIG_DFL);
        let mut taken = mem::zeroed();
        libc::sigfillset(&mut taken);
        libc::sigdelset(&mut taken, SIGSYS);
        // What is ignored stays so: once blocked, it would be taken like any other.
        for signal in (1..32).filter(|&signal| is_ignored(signal)) {
            libc::sigdelset(&mut taken, signal);
        }
        let mut before = mem::zeroed();
        libc::sigprocmask(libc::SIG_BLOCK, &taken, &mut before);
        match libc::fork() {
            -1 => {
                let error = io::Error::last_os_error();
                libc::sigprocmask(libc::SIG_SETMASK, &before, ptr::null_mut());
                Err(error)
            }
            0 => {
                libc::sigprocmask(libc::SIG_SETMASK, &before, ptr::null_mut());
                Ok(Side::Child(Shared { kept, passed_on }))
            }
            child => Ok(Side::Parent(Parent {
                child,
                taken,
                kept,
                pass_on,
                counts: vec![0; 65],
            })),
        }
    }
}

impl Parent {
    /// Waits for the child's end. Returns the exit code.
    fn wait(&mut self, work: Work) -> i32 {
        loop {
            // SAFETY: sigwaitinfo reads the set, and the null pointer asks for nothing.
            match unsafe { libc::sigwaitinfo(&self.taken, ptr::null_mut()) } {
                // After a stop of the process.
                -1 => {}
                SIGCHLD => {
                    if let Some(end) = self.look_at_child() {
                        return self.finish(end, work);
                    }
                }
                SIGTTIN | SIGTTOU => {}
                // A child that is stopped reads no pipe.
                SIGCONT => self.send(SIGCONT),
                signal => self.pass(signal),
            }
        }
    }

    /// Returns how the child has ended, if it has. Stops this process if the child has stopped, so that the shell takes over.
    fn look_at_child(&self) -> Option<End> {
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes one number.
            let found = unsafe { libc::waitpid(self.child, &mut status, libc::WNOHANG | libc::WUNTRACED) };
            if found != self.child {
                return None;
            }
            if libc::WIFEXITED(status) {
                return Some(End::Exited(libc::WEXITSTATUS(status)));
            }
            if libc::WIFSIGNALED(status) {
                return Some(End::Killed(libc::WTERMSIG(status)));
            }
            // SAFETY: no memory is touched.
            unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
        }
    }

    /// Passes a signal on, unless the child has got it already and does not read the pipe any more.
    fn pass(&mut self, signal: libc::c_int) {
        let count = &mut self.counts[signal as usize];
        *count += 1;
        if self.kept.takes_orders() && is_caught(signal) {
            // If the pipe is full, the child has enough orders.
            let _ = self.pass_on.write_all(&[signal as u8]);
        } else if self.kept.count(signal) < *count {
            self.send(signal);
        }
    }

    fn send(&self, signal: libc::c_int) {
        // SAFETY: no memory is touched. The child has not been waited for to its end, so its number is its own.
        unsafe { libc::kill(self.child, signal) };
    }

    fn finish(&self, end: End, work: Work) -> i32 {
        let signal = match end {
            End::Exited(code) => return code,
            End::Killed(signal) => signal,
        };
        give_terminal_back(&self.kept.undo());
        if let Some(words) = words(signal, work) {
            tell_at_once(&words);
        }
        // The shell is to see the end that it was.
        // SAFETY: no handler is installed, and the calls read one set, which is initialised.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::kill(libc::getpid(), signal);
            libc::sigprocmask(libc::SIG_UNBLOCK, &self.taken, ptr::null_mut());
        }
        // The first process of a container survives most signals.
        128 + signal
    }
}

fn give_terminal_back(undo: &[u8]) {
    let mut stdout = io::stdout();
    // A stalled terminal is not waited for.
    let takes = wait([Some(For::Writing(stdout.as_fd()))], Some(Duration::ZERO));
    if !undo.is_empty() && matches!(takes, Ok([true])) && terminal::is_in_foreground(stdout.as_fd()) {
        let _ = stdout.write_all(undo).and_then(|()| stdout.flush());
    }
    terminal::restore();
}

/// What there is to say of an end by this signal. Nothing if somebody asked for the end.
fn words(signal: libc::c_int, work: Work) -> Option<String> {
    let what = match signal {
        SIGKILL => match work {
            Work::Guest => {
                "was killed (SIGKILL), with its guest: by somebody, or by the host for lack of memory\n  try: look for \
                 \"Out of memory\" in the host's kernel log (dmesg)"
            }
            Work::Attached | Work::Command => {
                "was killed (SIGKILL): by somebody, or by the host for lack of memory"
            }
        },
        SIGSYS => {
            "made a system call that its filter refuses, and was killed (SIGSYS): the guest has taken it over, or this is a bug \
             in Coracle\n  try: report this, with the command line"
        }
        SIGABRT | libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP => {
            "crashed: a bug in Coracle, or of the host\n  try: report this, with the command line"
        }
        _ => return None,
    };
    let process = match work {
        Work::Guest => "the process of the guest",
        Work::Attached => "the process that shows the guest's console",
        Work::Command => "the process that has the guest run the command",
    };
    Some(format!("coracle: signal {signal}: {process} {what}\n"))
}

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors, which nobody else owns.
    unsafe {
        match libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) {
            0 => Ok((File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
