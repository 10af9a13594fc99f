//! The agent as a service: a process that waits for calls of the host, and a child of it for each call. No call can harm
//! another one, and PID 1 has nothing to do with them.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use coracle_agent_protocol::{Failure, Program, Reason, ToHost};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::session::{Ended, Session};
use super::start::start;
use super::vsock::{Listener, tell_that_it_listens};

/// How many calls are served at once. What is beyond is refused: each takes a process, and a program, of the guest's memory.
const SESSIONS_MAX: usize = 256;
/// After a call that could not be accepted, the next one is accepted after so many milliseconds, or when a session has ended.
const LATER: u16 = 100;

/// How long the agent sleeps until it looks for the device again, and how long at most: where there is none, it costs little.
const FIRST_SLEEP: Duration = Duration::from_millis(100);
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// How the guest is powered off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerOff {
    /// By a signal to PID 1, which is this program.
    Signal,
    /// By the program that the guest has for that.
    Program,
}

pub struct Service {
    listener: Listener,
    /// Readable when a child has ended.
    child_ended: SignalFd,
    sessions: usize,
    power_off: PowerOff,
}

impl Service {
    /// Listens, and tells the host. SIGCHLD is blocked from here on, and no other signal.
    pub fn start(power_off: PowerOff) -> io::Result<Self> {
        let service = Self::listen(power_off)?;
        tell_that_it_listens();
        Ok(service)
    }

    fn listen(power_off: PowerOff) -> io::Result<Self> {
        let child = SigSet::from(Signal::SIGCHLD);
        child.thread_set_mask()?;
        Ok(Self {
            listener: Listener::new()?,
            child_ended: SignalFd::with_flags(&child, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            sessions: 0,
            power_off,
        })
    }

    /// As [`Service::start`], in a guest of the person's, whose kernel may not have loaded the device's driver yet.
    pub fn start_when_possible(power_off: PowerOff) -> io::Result<Self> {
        let mut patience = FIRST_SLEEP;
        loop {
            match Self::listen(power_off) {
                Ok(service) if tell_that_it_listens() => return Ok(service),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {}
                Err(error) => return Err(error),
            }
            sleep(patience);
            patience = (patience * 2).min(LONGEST_SLEEP);
        }
    }

    /// Serves the host until the guest ends.
    pub fn serve(mut self) -> io::Result<Infallible> {
        let mut accepts = true;
        loop {
            let (ended, called) = self.wait(accepts)?;
            accepts = true;
            if ended {
                while let Ok(Some(_)) = self.child_ended.read_signal() {}
                while waitpid(None, Some(WaitPidFlag::WNOHANG))
                    .is_ok_and(|status| status != WaitStatus::StillAlive)
                {
                    self.sessions = self.sessions.saturating_sub(1);
                }
            }
            if called {
                match self.listener.accept() {
                    Ok(Some(connection)) => self.answer(connection),
                    Ok(None) => {}
                    // The guest lacks memory or descriptors at the moment.
                    Err(_) => accepts = false,
                }
            }
        }
    }

    /// Whether a child has ended, and whether the host calls.
    fn wait(&self, accepts: bool) -> io::Result<(bool, bool)> {
        let called = match accepts {
            true => PollFlags::POLLIN,
            false => PollFlags::empty(),
        };
        let mut entries = [
            PollFd::new(self.child_ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), called),
        ];
        let timeout = match accepts {
            true => PollTimeout::NONE,
            false => LATER.into(),
        };
        match poll(&mut entries, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(why) => return Err(why.into()),
        }
        let [ended, called] = entries.map(|entry| entry.any().unwrap_or(false));
        Ok((ended, called))
    }

    fn answer(&mut self, connection: OwnedFd) {
        if self.sessions == SESSIONS_MAX {
            let why = format!("the guest runs {SESSIONS_MAX} programs for the host already");
            return refuse(connection, why);
        }
        // SAFETY: this process has one thread, so the child may do all that its parent may.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { .. }) => self.sessions += 1,
            Ok(ForkResult::Child) => {
                // The descriptors that it has of its parent's are closed when it ends, and its program gets none of them.
                // The program starts with no signal blocked. This process goes on to tell its end when the guest ends.
                let _ = SigSet::all().thread_block();
                // Otherwise the host is gone, and nobody is left to be told.
                let _ = serve(connection, self.power_off);
                exit(0)
            }
            Err(why) => refuse(
                connection,
                format!("cannot start a process in the guest: {}", why.desc()),
            ),
        }
    }
}

/// Does what the host wants by one call.
fn serve(connection: OwnedFd, power_off: PowerOff) -> io::Result<()> {
    let mut session = Session::new(connection)?;
    match session.run(None, |_| true)? {
        Ended::Program(end) => session.tell(&end),
        Ended::PowerOff => {
            let answer = match begin_power_off(power_off) {
                Ok(()) => ToHost::PowersOff,
                Err(why) => ToHost::Failed(Failure::new(Reason::Other, why)),
            };
            // PID 1 waits for this process, so it does not wait for the host.
            session.say(&answer)
        }
        Ended::Interrupted => Ok(()),
    }
}

fn refuse(connection: OwnedFd, why: String) {
    // The host is gone otherwise.
    let _ = Session::new(connection)
        .and_then(|mut session| session.say(&ToHost::Failed(Failure::new(Reason::Other, why))));
}

/// An error is a sentence.
fn begin_power_off(how: PowerOff) -> Result<(), String> {
    match how {
        PowerOff::Signal => kill(Pid::from_raw(1), Signal::SIGPWR)
            .map_err(|why| format!("cannot send PID 1 a signal: {}", why.desc())),
        PowerOff::Program => {
            let program = Program {
                arguments: vec![b"poweroff".to_vec()],
                ..Program::default()
            };
            let started = start(&program).map_err(|failure| failure.text)?;
            match waitpid(started.pid, None) {
                Ok(WaitStatus::Exited(_, 0)) => Ok(()),
                _ => Err("the guest's program poweroff failed".into()),
            }
        }
    }
}
