//! stdout or stderr of this process, to which a program in the guest writes.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use coracle_agent_protocol::Stream;

use crate::console::GuestModes;

/// Bytes that a pipe takes whole, and without blocking, once it is ready for writing: `PIPE_BUF`.
const PIECE: usize = 4096;

/// A stream and the bytes that are not written to it yet: no more than the protocol's window.
pub struct Output {
    stream: Stream,
    fd: RawFd,
    unwritten: Vec<u8>,
    /// Nobody reads it any more, or writing failed.
    is_closed: bool,
    /// What the program did to the terminal, if this is one.
    modes: Option<GuestModes>,
}

impl Output {
    pub fn new(stream: Stream) -> Self {
        let fd = match stream {
            Stream::Out => libc::STDOUT_FILENO,
            Stream::Err => libc::STDERR_FILENO,
        };
        // SAFETY: a system call without pointers.
        let is_terminal = unsafe { libc::isatty(fd) } == 1;
        Self {
            stream,
            fd,
            unwritten: Vec::new(),
            is_closed: false,
            modes: is_terminal.then(GuestModes::default),
        }
    }

    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// What to wait for until it takes more.
    pub fn wanted(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: nobody in this process closes these descriptors, and the calls that get it report an error if it was
        // never open.
        (!self.unwritten.is_empty()).then(|| unsafe { BorrowedFd::borrow_raw(self.fd) })
    }

    /// How many bytes are not written yet.
    pub fn unwritten(&self) -> usize {
        self.unwritten.len()
    }

    /// Takes bytes of the program. What comes after an error is thrown away.
    pub fn take(&mut self, data: &[u8]) {
        if !self.is_closed {
            self.unwritten.extend(data);
        }
    }

    /// Writes a piece, once the stream is ready for that. Returns how many bytes were written. After an error nothing more
    /// is.
    pub fn write(&mut self) -> io::Result<usize> {
        let piece = &self.unwritten[..self.unwritten.len().min(PIECE)];
        // SAFETY: the piece is readable for its whole length.
        let count = unsafe { libc::write(self.fd, piece.as_ptr().cast(), piece.len()) };
        match usize::try_from(count) {
            Ok(count) => {
                if let Some(modes) = &mut self.modes {
                    modes.watch(&piece[..count]);
                }
                self.unwritten.drain(..count);
                Ok(count)
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(0),
                    _ => {
                        self.is_closed = true;
                        self.unwritten = Vec::new();
                        Err(error)
                    }
                }
            }
        }
    }

    /// Undoes what the program did to the terminal: until [`Output::redo`], or for good.
    pub fn undo(&mut self) {
        let undo = self.modes.as_ref().map(GuestModes::undo);
        self.unwritten.extend(undo.unwrap_or_default());
        self.write_what_fits();
    }

    /// Does again what was undone.
    pub fn redo(&mut self) {
        let redo = self.modes.as_ref().map(GuestModes::redo);
        self.unwritten.extend(redo.unwrap_or_default());
    }

    /// Writes as much as the stream takes without waiting.
    fn write_what_fits(&mut self) {
        while let Some(fd) = self.wanted() {
            let is_ready = crate::console::is_ready_for_writing(fd);
            if !is_ready || self.write().is_err() {
                break;
            }
        }
    }
}
