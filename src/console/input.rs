//! What the person types, or a pipe delivers, on its way to the guest's serial port.

use std::collections::VecDeque;
use std::io;

use super::escape::{Command, Escape};
use crate::devices::serial::SerialPort;

/// Bytes a read takes at once.
const READ: usize = 4096;
/// Typed or pasted bytes that wait for a guest which does not read, so that the escape key behind them is
/// still seen.
const TERMINAL_BACKLOG: usize = 1 << 20;
/// From anything but a terminal, nothing is read before the guest took what came before.
const PIPE_BACKLOG: usize = 1;

/// Stdin, and the bytes of it that the guest has not taken yet.
pub struct Input {
    backlog: VecDeque<u8>,
    limit: usize,
    escape: Option<Escape>,
    open: bool,
}

impl Input {
    /// `escape`: whether Ctrl-A is the escape key; it never is in what does not come from a terminal.
    pub fn new(terminal: bool, escape: bool) -> Self {
        Self {
            backlog: VecDeque::new(),
            limit: if terminal { TERMINAL_BACKLOG } else { PIPE_BACKLOG },
            escape: (terminal && escape).then(Escape::default),
            open: true,
        }
    }

    /// Whether to read when there is something.
    pub fn wants_more(&self) -> bool {
        self.open && self.backlog.len() < self.limit
    }

    /// Reads what is there and returns the commands in it. The end of stdin, or an error, ends the input and
    /// not the guest.
    pub fn read(&mut self) -> Vec<Command> {
        let mut buffer = [0; READ];
        let mut typed = match read_stdin(&mut buffer) {
            Ok(0) => {
                self.open = false;
                return Vec::new();
            }
            Ok(count) => &buffer[..count],
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                return Vec::new();
            }
            Err(error) => {
                log::warn!("cannot read stdin any more: {error}");
                self.open = false;
                return Vec::new();
            }
        };
        let mut commands = Vec::new();
        match &mut self.escape {
            None => self.backlog.extend(typed),
            Some(escape) => {
                while let Some((command, rest)) = escape.filter(typed, &mut self.backlog) {
                    commands.push(command);
                    typed = rest;
                }
            }
        }
        commands
    }

    /// Gives the guest what it takes.
    pub fn feed(&mut self, serial: &SerialPort) {
        while !self.backlog.is_empty() {
            let taken = serial.receive(self.backlog.as_slices().0);
            if taken == 0 {
                break;
            }
            self.backlog.drain(..taken);
        }
    }
}

/// Reads stdin without the standard library's buffer, which would hide bytes from poll.
fn read_stdin(buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its whole length.
    let count = unsafe { libc::read(libc::STDIN_FILENO, buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
