//! Runs the one command that the guest is for, and does PID 1's duties meanwhile: reaping and signals.

use std::convert::Infallible;
use std::ffi::CString;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::iter;
use std::os::fd::AsFd;
use std::process::exit;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::tcdrain;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{
    ForkResult, Pid, alarm, dup2_stderr, dup2_stdin, dup2_stdout, execv, execvp, fork, setsid,
};

use crate::agent::{self, Ended, PowerOff, Service, Session, State};
use crate::mounts;
use crate::say::complain;

/// Exit status of a command that cannot be run, as in a shell.
const CANNOT_RUN: u8 = 127;

/// Where commands are looked up.
const PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";

mod ioctl {
    use nix::libc;
    nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);
}

/// What is to happen when all is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Power the guest off. `status` is what init exits with where there is no guest to power off.
    PowerOff { status: u8 },
    /// Restart the guest.
    Restart,
    /// End init with this status: the kernel panics for want of an init, so whoever started the guest sees that
    /// something went wrong.
    Fail { status: u8 },
}

/// Keeps the signals that it waits for blocked. Linux drops a signal to PID 1 for which there is no handler, but not one
/// that is blocked.
pub struct Supervisor {
    awaited: SigSet,
}

/// Why `Supervisor::reap` came back.
#[derive(Debug, PartialEq, Eq)]
enum Reaped {
    /// The child asked for has ended, with this exit status.
    Child(u8),
    /// No child has anything to report now.
    Nothing,
    /// There is no child left.
    NoChildren,
}

impl Supervisor {
    /// Blocks the awaited signals from here on.
    pub fn new() -> Self {
        let awaited = SigSet::from_iter([
            Signal::SIGCHLD,
            Signal::SIGALRM,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGPWR,
        ]);
        if let Err(why) = awaited.thread_block() {
            complain(format_args!("cannot hold signals back: {why}"));
        }
        Self { awaited }
    }

    /// Runs `program` with the terminal, if there is one, as its own, until it ends or a signal ends the guest.
    pub fn run(&self, program: &str, arguments: &[String], terminal: Option<&File>) -> End {
        let child = match spawn(program, arguments, terminal, &self.awaited) {
            Ok(child) => child,
            Err(why) => {
                complain(format_args!("cannot run {program}: {why}"));
                return End::PowerOff { status: CANNOT_RUN };
            }
        };
        loop {
            match self.awaited.wait() {
                Ok(Signal::SIGCHLD) => {
                    if let Reaped::Child(status) = reap(Some(child)) {
                        return End::PowerOff { status };
                    }
                }
                Ok(signal) => {
                    if let Some(end) = end_asked_by(signal) {
                        return end;
                    }
                }
                Err(why) => {
                    complain(format_args!("cannot wait for signals: {why}"));
                    return End::PowerOff { status: CANNOT_RUN };
                }
            }
        }
    }

    /// Runs the program that the host asks for, and ends the guest when it has ended. Its disks are whole by the time the host
    /// is told.
    pub fn run_for_host(&self) -> End {
        match self.serve_host() {
            Ok(end) => end,
            Err(why) => {
                complain(format_args!("cannot do what the host asks for: {why}"));
                End::Fail { status: 1 }
            }
        }
    }

    fn serve_host(&self) -> io::Result<End> {
        let signals = SignalFd::with_flags(&self.awaited, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let mut session = Session::new(agent::call_host()?)?;
        let mut asked = None;
        let ended = session.run(Some(signals.as_fd()), |program| {
            while let Ok(Some(signal)) = signals.read_signal() {
                match Signal::try_from(signal.ssi_signo as i32) {
                    Ok(Signal::SIGCHLD) => reap_others(program),
                    // The program's own status is to be that of the run, so it is asked to end, as a container's is.
                    Ok(Signal::SIGPWR) if program != State::NotStarted => ask_to_end(program),
                    Ok(signal) => asked = asked.or(end_asked_by(signal)),
                    Err(_) => {}
                }
            }
            asked.is_none()
        })?;
        if ended == Ended::PowerOff {
            return Ok(End::PowerOff { status: 0 });
        }
        if let Ended::Program(end) = &ended {
            // As in a container, what the program leaves running ends with it.
            // A file that one of them still has open would keep its file system from being left clean.
            self.kill_all();
            mounts::leave_clean();
            session.tell(end)?;
        }
        Ok(asked.unwrap_or(End::PowerOff { status: 0 }))
    }

    /// Starts the process that runs programs for the host at any time. Without it the guest does what else it is for.
    pub fn start_service(&self, power_off: PowerOff) {
        // SAFETY: this process has one thread, so the child may do all that its parent may.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { .. }) => {}
            Ok(ForkResult::Child) => {
                let Err(why) = Service::start(power_off).and_then(Service::serve);
                complain(format_args!("the agent ends: {why}"));
                exit(1)
            }
            Err(why) => complain(format_args!("cannot start the agent: {why}")),
        }
    }

    /// Becomes `program`, which is PID 1 from then on, in the environment that the kernel gave. Comes back only with an
    /// error.
    pub fn become_init(&self, program: &str, arguments: &[String]) -> Result<Infallible, String> {
        let failed = |why: &dyn Display| format!("cannot run {program} as init: {why}");
        let words = words(program, arguments).map_err(|why| failed(&why))?;
        let path = words.first().ok_or_else(|| failed(&Errno::EINVAL))?;
        forget_signals(&self.awaited)
            .and_then(|()| execv(path, &words))
            .map_err(|why| failed(&why))
    }

    /// Ends every other process: asks first, then after two seconds kills.
    pub fn end_all(&self) {
        let everyone = Pid::from_raw(-1);
        // An interactive shell does not heed SIGTERM but does heed SIGHUP; a stopped process needs SIGCONT for either.
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
            if kill(everyone, signal).is_err() {
                return; // There is no other process.
            }
        }
        if !self.all_end_within(2) {
            self.kill_all();
        }
    }

    /// Kills every other process, and waits until all are gone, but no longer than two seconds.
    fn kill_all(&self) {
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        self.all_end_within(2);
    }

    /// Reaps until no child is left: true, or until so many seconds have passed: false.
    fn all_end_within(&self, seconds: u32) -> bool {
        alarm::set(seconds);
        loop {
            if reap(None) == Reaped::NoChildren {
                alarm::cancel();
                return true;
            }
            if matches!(self.awaited.wait(), Ok(Signal::SIGALRM) | Err(_)) {
                return false;
            }
        }
    }
}

/// What a signal asks for. They are those of busybox's poweroff, halt and reboot, the kernel's for ctrl-alt-del, and the agent's.
fn end_asked_by(signal: Signal) -> Option<End> {
    match signal {
        Signal::SIGTERM | Signal::SIGINT => Some(End::Restart),
        Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGPWR => Some(End::PowerOff { status: 0 }),
        _ => None,
    }
}

/// Asks the program and its group to end.
fn ask_to_end(program: State) {
    if let State::Runs { pid, stop_signal } = program {
        // SAFETY: the call takes numbers. The program may have ended at this moment.
        unsafe { libc::killpg(pid.as_raw(), stop_signal) };
    }
}

/// Reaps the orphans that have ended, and leaves the program to its session.
fn reap_others(program: State) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Some(pid) = waitid(Id::All, flags).ok().and_then(|status| status.pid()) {
        if matches!(program, State::Runs { pid: leader, .. } if leader == pid) {
            break;
        }
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// Starts `program`, looked up as a shell does. When the child cannot become the program, it says why and exits with 127.
fn spawn(
    program: &str,
    arguments: &[String],
    terminal: Option<&File>,
    held_back: &SigSet,
) -> Result<Pid, String> {
    let words = words(program, arguments)?;
    // The standard library's Command is not used: it needs a socket, which a guest's kernel may lack.
    // SAFETY: this process has one thread, so the child may do all that its parent may.
    match unsafe { fork() }.map_err(|why| why.to_string())? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let Err(why) = become_the_command(&words, terminal, held_back);
            complain(format_args!("cannot run {program}: {why}"));
            exit(CANNOT_RUN.into())
        }
    }
}

fn words(program: &str, arguments: &[String]) -> Result<Vec<CString>, String> {
    iter::once(program)
        .chain(arguments.iter().map(String::as_str))
        .map(CString::new)
        .collect::<Result<_, _>>()
        .map_err(|why| why.to_string())
}

/// Leaves signals as a program expects them at its start.
fn forget_signals(held_back: &SigSet) -> nix::Result<()> {
    // SAFETY: installs no handler. Rust's start-up ignores SIGPIPE, which commands do not expect.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    held_back.thread_unblock()
}

/// Turns this process into the command; comes back only with an error.
fn become_the_command(
    words: &[CString],
    terminal: Option<&File>,
    held_back: &SigSet,
) -> nix::Result<Infallible> {
    if let Some(terminal) = terminal {
        setsid()?;
        dup2_stdin(terminal)?;
        dup2_stdout(terminal)?;
        dup2_stderr(terminal)?;
        // SAFETY: TIOCSCTTY takes a plain number and reads no memory; stdin was set just above.
        unsafe { ioctl::set_controlling_terminal(libc::STDIN_FILENO, 0) }?;
        // SAFETY: this process has one thread, so the child may do all that its parent may.
        if let ForkResult::Parent { child } = unsafe { fork() }? {
            lead_session(child);
        }
    }
    forget_signals(held_back)?;
    for (name, value) in [
        ("PATH", PATH),
        ("HOME", "/root"),
        ("PS1", "coracle guest:\\w \\$ "),
    ] {
        // SAFETY: this process has one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
    let program = words.first().ok_or(Errno::EINVAL)?;
    execvp(program, words)
}

/// Waits for the command and until its output has left the serial port, then exits with the command's status.
///
/// When a session's leader ends, its terminal is hung up, and output that has not left the serial port is lost. So this
/// process is the leader, and not the command.
fn lead_session(command: Pid) -> ! {
    // The signals of keys that are for the command reach this process as well, and it may be in the background.
    for for_the_command in [Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        // SAFETY: installs no handler.
        let _ = unsafe { signal(for_the_command, SigHandler::SigIgn) };
    }
    let status = loop {
        match waitpid(command, None) {
            Ok(status) => {
                if let Some(status) = exit_status(status) {
                    break status;
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => break CANNOT_RUN,
        }
    };
    let _ = tcdrain(io::stdout());
    exit(status.into())
}

/// Reaps all that have ended, orphans too, and says what became of `child`.
fn reap(child: Option<Pid>) -> Reaped {
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Reaped::Nothing,
            Ok(status) => status,
            Err(Errno::EINTR) => continue,
            Err(_) => return Reaped::NoChildren,
        };
        if status.pid() == child
            && let Some(status) = exit_status(status)
        {
            return Reaped::Child(status);
        }
    }
}

/// A shell's exit status for a process that has ended.
fn exit_status(status: WaitStatus) -> Option<u8> {
    match status {
        // The kernel keeps the low eight bits only.
        WaitStatus::Exited(_, code) => Some(code as u8),
        WaitStatus::Signaled(_, signal, _) => Some(128 + signal as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_status_is_a_shells() {
        let pid = Pid::from_raw(2);
        assert_eq!(exit_status(WaitStatus::Exited(pid, 3)), Some(3));
        assert_eq!(
            exit_status(WaitStatus::Signaled(pid, Signal::SIGKILL, false)),
            Some(137)
        );
        assert_eq!(exit_status(WaitStatus::Continued(pid)), None);
    }
}
