//! The person's terminal on stdin: raw while a guest has it, and the person's again on every way out.
//!
//! A process in the background of a terminal's session leaves the terminal alone: it neither changes its modes nor
//! reads it, since both belong to the process in the foreground.

use std::io::{self, IsTerminal, stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, TryLockError};

use libc::{ECHO, ECHONL, ICANON, STDIN_FILENO, TCIFLUSH, TCSANOW, VMIN, VTIME, termios};

/// The terminal's modes before we changed them, as long as they are changed. Global, because a panic restores them.
static BEFORE: Mutex<Option<termios>> = Mutex::new(None);

/// The mode that this process wants the terminal to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Every byte goes to us as it is typed.
    Raw,
    /// As the person had it, but what is typed is neither shown nor edited. So Ctrl-C is a signal again, and the
    /// terminal's late answers to the guest are not shown.
    Quiet,
    /// As the person had it.
    Restored,
}

/// A terminal on stdin. Dropping it restores the terminal.
#[derive(Debug)]
pub struct Terminal {
    wanted: Wanted,
    /// Whether the terminal is in the wanted mode.
    is_so: bool,
}

impl Terminal {
    /// The terminal on stdin, if there is one.
    pub fn on_stdin() -> Option<Self> {
        stdin().is_terminal().then_some(Self {
            wanted: Wanted::Restored,
            is_so: true,
        })
    }

    /// Makes the terminal raw, now or as soon as we are in the foreground.
    ///
    /// Output keeps its newline translation, so that our own lines between the guest's stay readable.
    pub fn make_raw(&mut self) -> io::Result<()> {
        self.want(Wanted::Raw)
    }

    /// Gives the terminal the person's modes, but without echo and line editing.
    pub fn make_quiet(&mut self) -> io::Result<()> {
        self.want(Wanted::Quiet)
    }

    /// Gives the terminal back as it was, without what was typed for the guest or is an answer to it.
    pub fn restore(&mut self) {
        self.wanted = Wanted::Restored;
        self.is_so = true;
        restore();
    }

    /// Gives the terminal back until [`Terminal::look_again`].
    pub fn lend(&mut self) {
        restore();
        self.is_so = self.wanted == Wanted::Restored;
    }

    /// Takes the foreground of the terminal back from a process to which it was given, and the modes from before.
    pub fn take_back(&self, modes: &termios) {
        // SAFETY: system calls without pointers. SIGTTOU is blocked.
        unsafe { libc::tcsetpgrp(STDIN_FILENO, libc::getpgrp()) };
        // It fails on a terminal that hung up.
        let _ = set(modes);
    }

    /// Sets the wanted mode again. To be called after anything that may have brought us to the foreground, or changed the modes
    /// while we were stopped.
    pub fn look_again(&mut self) -> io::Result<()> {
        self.want(self.wanted)
    }

    /// Whether the terminal is to change as soon as we are in the foreground.
    pub fn waits_for_foreground(&self) -> bool {
        !self.is_so
    }

    /// Whether what is typed is for us. After the terminal was given back it is not: it is for the person's shell, or for
    /// a pager at the other end of our output.
    pub fn gives_input(&self) -> bool {
        self.wanted != Wanted::Restored && self.is_in_foreground()
    }

    /// Whether this process is in the foreground of the terminal.
    pub fn is_in_foreground(&self) -> bool {
        is_in_foreground(stdin_fd())
    }

    fn want(&mut self, wanted: Wanted) -> io::Result<()> {
        self.wanted = wanted;
        self.is_so = wanted == Wanted::Restored || self.is_in_foreground();
        if !self.is_so || wanted == Wanted::Restored {
            return Ok(());
        }
        let mut before = BEFORE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let modes = match *before {
            Some(modes) => modes,
            None => modes_now()?,
        };
        *before = Some(modes);
        set(&match wanted {
            Wanted::Raw => raw(modes),
            Wanted::Quiet => quiet(modes),
            Wanted::Restored => modes,
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

fn raw(mut modes: termios) -> termios {
    let output_flags = modes.c_oflag;
    // SAFETY: cfmakeraw only writes to the struct that it is given.
    unsafe { libc::cfmakeraw(&mut modes) };
    modes.c_oflag = output_flags;
    modes
}

fn quiet(mut modes: termios) -> termios {
    modes.c_lflag &= !(ICANON | ECHO | ECHONL);
    (modes.c_cc[VMIN], modes.c_cc[VTIME]) = (1, 0);
    modes
}

/// Restores the modes from before, unless another process has the terminal now, and throws away what was typed.
pub(super) fn restore() {
    let before = match BEFORE.try_lock() {
        Ok(mut before) => before.take(),
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
        // Only a panic or an abort restores the modes while a thread changes them, and must not wait for that thread, which
        // may be its own.
        Err(TryLockError::WouldBlock) => None,
    };
    if let Some(before) = before
        && is_in_foreground(stdin_fd())
    {
        // Both fail on a terminal that hung up, and then there is nothing to restore. TCSAFLUSH would do both in one
        // call, but waits for output that a stalled terminal never takes.
        let _ = set(&before);
        forget_input(stdin_fd());
    }
}

/// Throws away what the terminal sent and nobody has read, if the terminal is ours.
pub(super) fn forget_input(terminal: BorrowedFd) {
    if is_in_foreground(terminal) {
        // SAFETY: a system call without pointers.
        unsafe { libc::tcflush(terminal.as_raw_fd(), TCIFLUSH) };
    }
}

/// Whether this process is in the foreground of the terminal. It always is when the terminal is not its session's:
/// then there is no job control between the two.
pub(crate) fn is_in_foreground(terminal: BorrowedFd) -> bool {
    // SAFETY: system calls without pointers.
    let (foreground, ours) = unsafe { (libc::tcgetpgrp(terminal.as_raw_fd()), libc::getpgrp()) };
    foreground == -1 || foreground == ours
}

fn stdin_fd() -> BorrowedFd<'static> {
    // SAFETY: nobody in this process closes stdin, and the calls that get it report an error if it was never open.
    unsafe { BorrowedFd::borrow_raw(STDIN_FILENO) }
}

/// Has [`restore`] give the terminal these modes.
pub(super) fn keep(modes: termios) {
    *BEFORE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(modes);
}

pub(super) fn modes_now() -> io::Result<termios> {
    let mut now = MaybeUninit::uninit();
    // SAFETY: tcgetattr writes a whole struct when it returns 0, and only then is it read.
    match unsafe { libc::tcgetattr(STDIN_FILENO, now.as_mut_ptr()) } {
        // SAFETY: as above.
        0 => Ok(unsafe { now.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(modes: &termios) -> io::Result<()> {
    // SAFETY: tcsetattr only reads the struct.
    match unsafe { libc::tcsetattr(STDIN_FILENO, TCSANOW, modes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Rows and columns of the terminal on stdin, if there is one that knows.
pub fn size() -> Option<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize.
    let result = unsafe { libc::ioctl(STDIN_FILENO, libc::TIOCGWINSZ, &mut size) };
    (result == 0 && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
