//! Signals as something to read.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::ptr;

use libc::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ, sigset_t,
};

/// What would end the process, or stop and continue it, behind the terminal's back.
const CAUGHT: [i32; 10] = [
    SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU, SIGTSTP, SIGCONT,
];

/// From here on a write past a file size limit (RLIMIT_FSIZE) is an error like others, not the end.
pub fn ignore_file_size_limit() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(SIGXFSZ, libc::SIG_IGN) };
}

/// Signals that came. They are blocked from [`Signals::catch`] to [`Signals::release`], in the calling thread and in
/// those it starts.
#[derive(Debug)]
pub struct Signals {
    file: File,
    /// What was blocked before.
    mask: sigset_t,
}

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
        let mut caught = MaybeUninit::<sigset_t>::uninit();
        let mut mask = MaybeUninit::<sigset_t>::uninit();
        // SAFETY: sigemptyset initialises `caught`, which the other calls read; pthread_sigmask initialises `mask` when
        // it succeeds; signalfd returns a descriptor that nobody else owns.
        unsafe {
            libc::sigemptyset(caught.as_mut_ptr());
            // What the parent had ignored, as nohup does, stays so: blocked, it would be read here all the same.
            for signal in CAUGHT.into_iter().filter(|&signal| !is_ignored(signal)) {
                libc::sigaddset(caught.as_mut_ptr(), signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, caught.as_ptr(), mask.as_mut_ptr()) {
                0 => (),
                error => return Err(io::Error::from_raw_os_error(error)),
            }
            match libc::signalfd(-1, caught.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self {
                    file: File::from_raw_fd(fd),
                    mask: mask.assume_init(),
                }),
            }
        }
    }

    /// Lets the next signal do to the process what it does to any other. For the end of a run that may take long.
    pub fn release(&mut self) {
        // SAFETY: the mask is one that pthread_sigmask gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.mask, ptr::null_mut()) };
    }

    /// The next signal that came, if any.
    pub fn take(&mut self) -> Option<Request> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        self.file.read_exact(&mut info).ok()?;
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
        self.file.as_fd()
    }
}

fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: sigaction initialises `action` when it succeeds, and only then is it read.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Stops this process until somebody continues it.
pub fn suspend() {
    // SAFETY: raise sends a signal to this thread and touches no memory of ours.
    unsafe { libc::raise(libc::SIGSTOP) };
}
