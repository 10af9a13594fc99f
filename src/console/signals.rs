//! Signals as something to read.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

use libc::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};

/// The signals that end a run or stop and continue it. Blocked from [`Signals::catch`] on, in the calling
/// thread and in those it starts.
#[derive(Debug)]
pub struct Signals(File);

/// A signal that came, by what it asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// End the run; the number of the signal.
    End(i32),
    /// Stop, as Ctrl-Z does in a terminal that is not raw.
    Suspend,
    /// Somebody continued us.
    Resume,
}

impl Signals {
    pub fn catch() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set that the other calls read, and signalfd returns a descriptor
        // that nobody else owns.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGCONT] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) {
                0 => (),
                error => return Err(io::Error::from_raw_os_error(error)),
            }
            match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self(File::from_raw_fd(fd))),
            }
        }
    }

    /// The next signal that came, if any.
    pub fn next(&mut self) -> Option<Request> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        self.0.read_exact(&mut info).ok()?;
        // signalfd_siginfo begins with the signal's number.
        let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        Some(match number {
            SIGTSTP => Request::Suspend,
            SIGCONT => Request::Resume,
            number => Request::End(number),
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Stops this process until somebody continues it.
pub fn suspend() {
    // SAFETY: raise sends a signal to this thread and touches no memory of ours.
    unsafe { libc::raise(libc::SIGSTOP) };
}
