//! Signals that end a race, such as Ctrl-C's. The race waits for them together with its output, and then ends everything
//! that it started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

/// The signals that end a race. They have handlers and are not blocked, since what is blocked stays so in every program
/// that is started.
pub struct Interrupts {
    number: Arc<AtomicUsize>,
    reader: UnixStream,
    handlers: Vec<SigId>,
}

impl Interrupts {
    pub fn catch() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        let mut interrupts = Self {
            number: Arc::default(),
            reader,
            handlers: Vec::new(),
        };
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            let number = interrupts.number.clone();
            let noted = flag::register_usize(signal, number, signal as usize)?;
            interrupts.handlers.push(noted);
            let told = low_level::pipe::register(signal, writer.try_clone()?)?;
            interrupts.handlers.push(told);
        }
        Ok(interrupts)
    }

    /// The signal that came, if one has.
    pub fn signal(&self) -> Option<i32> {
        match self.number.load(Ordering::Relaxed) {
            0 => None,
            number => i32::try_from(number).ok(),
        }
    }

    /// Readable once a signal has come.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}
