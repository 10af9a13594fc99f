//! Raw mode, and the way back from it on every way out.

use std::io::{self, IsTerminal, stdin};
use std::mem::MaybeUninit;
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

use libc::{STDIN_FILENO, TCSANOW, termios};

/// How the terminal was before raw mode, as long as it is raw. Global, because a panic restores it too.
static COOKED: Mutex<Option<termios>> = Mutex::new(None);

/// A terminal on stdin in raw mode. Dropping it restores the terminal, and so does a panic on any thread.
#[derive(Debug)]
pub struct Terminal(());

impl Terminal {
    /// Makes stdin raw when it is a terminal.
    ///
    /// Output keeps its newline translation, so that lines of ours between the guest's stay readable.
    pub fn raw() -> io::Result<Option<Self>> {
        static HOOK: Once = Once::new();
        if !stdin().is_terminal() {
            return Ok(None);
        }
        HOOK.call_once(|| {
            let report = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                restore();
                report(info);
            }));
        });
        let terminal = Self(());
        terminal.make_raw()?;
        Ok(Some(terminal))
    }

    /// Makes the terminal raw again, after [`Terminal::restore`] or after a shell changed it under us.
    pub fn make_raw(&self) -> io::Result<()> {
        let mut cooked = COOKED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut raw = match *cooked {
            Some(before) => before,
            None => current()?,
        };
        *cooked = Some(raw);
        let output_flags = raw.c_oflag;
        // SAFETY: cfmakeraw only writes to the struct that it is given.
        unsafe { libc::cfmakeraw(&mut raw) };
        raw.c_oflag = output_flags;
        set(&raw)
    }

    /// Gives the terminal back as it was, until [`Terminal::make_raw`].
    pub fn restore(&self) {
        restore();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let before = COOKED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // A terminal that hung up cannot be restored and needs not be.
        let _ = set(&before);
    }
}

fn current() -> io::Result<termios> {
    let mut now = MaybeUninit::uninit();
    // SAFETY: tcgetattr writes a whole struct when it returns 0, and only then is it read.
    match unsafe { libc::tcgetattr(STDIN_FILENO, now.as_mut_ptr()) } {
        // SAFETY: as above.
        0 => Ok(unsafe { now.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(mode: &termios) -> io::Result<()> {
    // SAFETY: tcsetattr only reads the struct.
    match unsafe { libc::tcsetattr(STDIN_FILENO, TCSANOW, mode) } {
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
