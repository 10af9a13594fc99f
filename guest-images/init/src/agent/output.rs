//! An output stream of the program on its way to the host.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use coracle_agent_protocol::{Stream, ToHost, WINDOW};

use super::session::{Connection, ENOUGH, send};

/// What a terminal holds at most of what was written to it.
const TERMINAL_HOLDS: usize = 128 << 10;

mod ioctl {
    use nix::libc;
    nix::ioctl_read_bad!(unread, libc::FIONREAD, i32);
}

pub struct Output {
    stream: Stream,
    /// The end that is read; nothing once the stream has ended.
    end: Option<File>,
    is_terminal: bool,
    /// So many bytes the host takes now.
    room: usize,
    /// The program has ended: so many bytes of what it had written are still to be sent.
    rest: Option<usize>,
}

impl Output {
    /// `end` is one that does not block.
    pub fn new(stream: Stream, end: File, is_terminal: bool) -> Self {
        Self {
            stream,
            end: Some(end),
            is_terminal,
            room: WINDOW as usize,
            rest: None,
        }
    }

    /// What to wait for until it is readable.
    pub fn wanted(&self) -> Option<BorrowedFd<'_>> {
        let has_room = self.room > 0 && self.rest != Some(0);
        self.end.as_ref().filter(|_| has_room).map(AsFd::as_fd)
    }

    /// Whether all that the program had written is read. To be asked once the program has ended.
    pub fn is_done(&self) -> bool {
        self.end.is_none() || self.rest == Some(0)
    }

    /// The host has passed on so many bytes. False if it cannot have.
    #[must_use]
    pub fn add_room(&mut self, bytes: u32) -> bool {
        self.room += bytes as usize;
        self.room <= WINDOW as usize
    }

    /// Nobody reads it any more.
    pub fn close(&mut self) {
        self.end = None;
    }

    /// The program has ended. What it had written is in the pipe; what others write from now on is not sent.
    pub fn program_ended(&mut self) {
        let Some(end) = &self.end else { return };
        let mut count = 0;
        self.rest = Some(match self.is_terminal {
            // It does not say how much, as some of it may be between its two ends. `read_rest` finds all.
            true => TERMINAL_HOLDS,
            // SAFETY: the request writes one number, to a variable that outlives the call.
            false => match unsafe { ioctl::unread(end.as_raw_fd(), &mut count) } {
                Ok(_) => count.try_into().unwrap_or(0),
                Err(_) => 0,
            },
        });
    }

    /// Sends the host the rest of what the program had written to its terminal, as far as there is room for it. A terminal
    /// that others have open and do not write to is never readable: only a read that would block tells that nothing is left.
    pub fn read_rest(&mut self, connection: &mut Connection, buffer: &mut [u8]) {
        while self.is_terminal
            && self.rest.is_some()
            && self.wanted().is_some()
            && connection.unsent() < ENOUGH
        {
            self.read(connection, buffer);
        }
    }

    /// Sends the host what can be read at once.
    pub fn read(&mut self, connection: &mut Connection, buffer: &mut [u8]) {
        let Some(end) = &mut self.end else { return };
        let limit = self.room.min(self.rest.unwrap_or(usize::MAX)).min(buffer.len());
        if limit == 0 {
            return;
        }
        match end.read(&mut buffer[..limit]) {
            Ok(count) if count > 0 => {
                self.room -= count;
                self.rest = self.rest.map(|rest| rest - count);
                send(connection, &ToHost::Output(self.stream), &buffer[..count]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.rest = self.rest.map(|_| 0);
            }
            // The end; a terminal that nobody has open gives an error instead.
            _ => {
                self.end = None;
                send(connection, &ToHost::OutputEnd(self.stream), &[]);
            }
        }
    }
}
