//! Receives signals through a file descriptor instead of by handlers, and those that a parent passes on (keeper.rs).

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::ptr;

use libc::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2,
    SIGWINCH, SIGXCPU, SIGXFSZ, sigset_t,
};

use super::keeper;

/// Signals that end the process, or stop and continue it: by default they would do so without restoring the terminal. And
/// the one that says that the terminal has another size.
const CAUGHT: [i32; 11] = [
    SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU, SIGTSTP, SIGCONT, SIGWINCH,
];
/// Signals that a terminal sends to a background process that uses it. By default they stop the process, and a stopped
/// process obeys no other signal.
const REFUSED: [i32; 2] = [SIGTTIN, SIGTTOU];

/// Makes every later write past a file size limit (RLIMIT_FSIZE) an error. By default it would kill the process.
pub fn ignore_file_size_limit() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(SIGXFSZ, libc::SIG_IGN) };
}

/// How a signal came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It was sent to this process.
    Sent,
    /// The parent has passed it on.
    PassedOn,
}

/// How often each signal was sent, and how often it was passed on. Who sends a signal to the whole job, as a terminal does
/// and a shell for `kill %1`, sends it to both processes, and means it once.
#[derive(Debug)]
struct Counts([(u64, u64); 65]);

impl Default for Counts {
    fn default() -> Self {
        Self([(0, 0); 65])
    }
}

impl Counts {
    /// Whether this signal is another one than those before.
    fn is_new(&mut self, number: i32, way: Way) -> bool {
        let Some((sent, passed_on)) = self.0.get_mut(number as usize) else {
            return false;
        };
        match way {
            Way::Sent => {
                *sent += 1;
                keeper::keep_count(number, *sent);
                sent > passed_on
            }
            Way::PassedOn => {
                *passed_on += 1;
                passed_on > sent
            }
        }
    }
}

/// The signals that arrive. They are blocked from [`Signals::catch`] to [`Signals::release`], in the calling thread and in the
/// threads that it starts meanwhile.
#[derive(Debug)]
pub struct Signals {
    file: File,
    caught: sigset_t,
    counts: Counts,
    /// Those that the parent passes on, until it is gone.
    passed_on: Option<&'static File>,
}

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// End the run. The value is the number of the signal.
    End(i32),
    /// Stop, as Ctrl-Z does in a terminal that is not raw.
    Suspend,
    /// The process was stopped and continues now.
    Resume,
    /// The terminal has another size now.
    Resize,
}

impl Signals {
    pub fn catch() -> io::Result<Self> {
        // A parent that ignores everything would leave SIGKILL alone to end a run.
        // SAFETY: no handler is installed.
        unsafe { libc::signal(SIGTERM, libc::SIG_DFL) };
        // Any other signal that the parent ignores, as nohup does with SIGHUP, stays ignored: once blocked, it would be
        // read here like any other.
        let caught = set_of(CAUGHT.into_iter().filter(|&signal| !is_ignored(signal)));
        change_mask(libc::SIG_BLOCK, &caught)?;
        change_mask(libc::SIG_BLOCK, &set_of(REFUSED))?;
        // SAFETY: signalfd reads the set.
        match unsafe { libc::signalfd(-1, &caught, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) } {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(Self {
                // SAFETY: signalfd made the descriptor, and nobody else owns it.
                file: unsafe { File::from_raw_fd(fd) },
                caught,
                counts: Counts::default(),
                passed_on: keeper::take_orders(),
            }),
        }
    }

    /// Makes the next signal act on this process as on any other. To be called at the end of a run, which may take long.
    pub fn release(&mut self) {
        keeper::take_no_orders();
        // A signal that is here a second time, because the parent has passed it on, is not to act on this process.
        let late = match self.passed_on {
            Some(_) => self.take(),
            None => None,
        };
        self.passed_on = None;
        // This fails only if the first argument is unknown.
        let _ = change_mask(libc::SIG_UNBLOCK, &self.caught);
        if let Some(Request::End(number)) = late {
            // SAFETY: no memory is touched.
            unsafe { libc::raise(number) };
        }
    }

    /// Readable when the parent has passed a signal on, or is gone.
    pub fn passed_on(&self) -> Option<BorrowedFd<'_>> {
        self.passed_on.map(AsFd::as_fd)
    }

    /// Takes the next signal that has arrived, if there is one.
    pub fn take(&mut self) -> Option<Request> {
        loop {
            // In this order, a run that was stopped takes the signal that is to end it before the one that lets it go on.
            let (number, way) = self.take_passed_on().or_else(|| self.take_sent())?;
            if self.counts.is_new(number, way) {
                return Some(match number {
                    SIGTSTP => Request::Suspend,
                    SIGCONT => Request::Resume,
                    SIGWINCH => Request::Resize,
                    number => Request::End(number),
                });
            }
        }
    }

    fn take_sent(&mut self) -> Option<(i32, Way)> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        self.file.read_exact(&mut info).ok()?;
        // The struct signalfd_siginfo begins with the number of the signal.
        let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        Some((number, Way::Sent))
    }

    fn take_passed_on(&mut self) -> Option<(i32, Way)> {
        let mut passed_on = self.passed_on?;
        let mut number = [0];
        match passed_on.read(&mut number) {
            Ok(1) => Some((number[0].into(), Way::PassedOn)),
            // The parent is gone.
            Ok(_) => {
                self.passed_on = None;
                Some((SIGTERM, Way::PassedOn))
            }
            Err(_) => None,
        }
    }
}

/// Whether this is one of the signals that are taken here.
pub(super) fn is_caught(signal: i32) -> bool {
    CAUGHT.contains(&signal)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Calls `start`, which starts a thread, with all signals blocked, so that the new thread never receives a signal, but for that of
/// a refused system call (confine/filter/refusal.rs).
pub fn with_all_blocked<T>(start: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::<sigset_t>::uninit();
    let mut before = MaybeUninit::<sigset_t>::uninit();
    // SAFETY: sigfillset initialises `all`, which sigdelset changes and pthread_sigmask reads; pthread_sigmask initialises `before`, since it
    // fails only for an unknown first argument.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigdelset(all.as_mut_ptr(), libc::SIGSYS);
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let started = start();
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    started
}

fn set_of(signals: impl IntoIterator<Item = i32>) -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, and sigaddset only changes it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

fn change_mask(how: i32, signals: &sigset_t) -> io::Result<()> {
    // SAFETY: pthread_sigmask reads the set, and the null pointer asks for nothing.
    match unsafe { libc::pthread_sigmask(how, signals, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

pub(super) fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: sigaction initialises `action` when it succeeds, and only then is it read.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Stops this process until it is continued.
pub fn suspend() {
    // SAFETY: raise sends a signal to this thread and touches no memory of ours.
    unsafe { libc::raise(libc::SIGSTOP) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_for_the_whole_job_counts_once_in_either_order_and_each_other_one_by_itself() {
        let mut counts = Counts::default();
        let mut is_new = |way| counts.is_new(SIGTERM, way);
        assert!(is_new(Way::Sent));
        assert!(!is_new(Way::PassedOn), "the same one");
        assert!(is_new(Way::PassedOn));
        assert!(!is_new(Way::Sent), "the same one, passed on before it was taken");
        assert!(is_new(Way::PassedOn) && is_new(Way::PassedOn));
        assert!(counts.is_new(SIGHUP, Way::Sent));
    }
}
