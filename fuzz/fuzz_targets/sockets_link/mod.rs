//! A connection whose two ends are followed: what each has sent, and what has to arrive of that.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::sockets_guest::*;

/// What the guest's program holds, in bytes.
const GRANT: u32 = 9000;
/// Flags of SHUTDOWN.
const RECEIVE: u32 = 1;
const SEND: u32 = 2;
const BOTH: u32 = RECEIVE | SEND;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Coracle calls the guest.
    Dialed,
    /// A program of the host calls the guest.
    Greeted,
    /// The guest calls a program of the host.
    Called,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has answered.
    Waiting,
    /// The guest has been asked.
    Asked,
    Open,
    /// The guest knows it no more.
    Gone,
}

pub struct Link {
    kind: Kind,
    pub state: State,
    /// The guest has said something wrong of it, so nothing is expected of it.
    pub is_hostile: bool,
    pub host_port: u32,
    pub guest_port: u32,
    program: Option<UnixStream>,
    /// The device's end of a call, until it is connected.
    pub device: Option<UnixStream>,
    /// What the program reads before the first byte of the guest.
    prefix: Vec<u8>,
    // Counts of bytes since the beginning.
    host_wrote: usize,
    host_got: usize,
    guest_wrote: usize,
    guest_got: usize,
    /// What the guest's program has taken, as far as the device knows.
    guest_took: usize,
    /// What the device says that it holds, and has passed on.
    window: usize,
    forwarded: usize,
    /// Whether the host's program sends no more, and whether it receives no more.
    has_host_ended: bool,
    is_host_deaf: bool,
    has_program_read_end: bool,
    /// Flags of SHUTDOWN: what the guest has said, and what it has been told.
    guest_ended: u32,
    told: u32,
    was_open: bool,
}

/// Bytes of a stream, from this position on.
fn bytes(from: usize, count: usize, salt: u32) -> Vec<u8> {
    let byte = |position: usize| (position.wrapping_mul(31) >> 3) as u8 ^ position as u8 ^ salt as u8;
    (from..from + count).map(byte).collect()
}

impl Link {
    pub fn new(kind: Kind, program: UnixStream, (host_port, guest_port): (u32, u32)) -> Self {
        Self {
            kind,
            state: State::Waiting,
            is_hostile: false,
            // The device gives those that call the guest a port.
            host_port: if kind == Kind::Called { host_port } else { 0 },
            guest_port,
            program: Some(program),
            device: None,
            prefix: Vec::new(),
            host_wrote: 0,
            host_got: 0,
            guest_wrote: 0,
            guest_got: 0,
            guest_took: 0,
            window: 0,
            forwarded: 0,
            has_host_ended: false,
            is_host_deaf: false,
            has_program_read_end: false,
            guest_ended: 0,
            told: 0,
            was_open: false,
        }
    }

    // The guest.

    pub fn header(&mut self, operation: u16) -> Header {
        self.was_open |= self.state == State::Open;
        self.guest_took = self.guest_got;
        Header {
            source_cid: CID,
            destination_cid: HOST_CID,
            source_port: self.guest_port,
            destination_port: self.host_port,
            length: 0,
            kind: STREAM,
            operation,
            flags: 0,
            buf_alloc: GRANT,
            fwd_cnt: self.guest_took as u32,
        }
    }

    /// Sends as much of so many bytes as the device can hold.
    pub fn guest_writes(&mut self, count: usize) -> Option<(Header, Vec<u8>)> {
        let may = self.window - (self.guest_wrote - self.forwarded);
        let count = count.min(may).min(BUFFER - HEADER_SIZE);
        if self.state != State::Open || self.guest_ended & SEND != 0 || self.is_hostile {
            return None;
        }
        let data = bytes(self.guest_wrote, count, self.guest_port);
        self.guest_wrote += count;
        let length = count as u32;
        Some((
            Header {
                length,
                ..self.header(READ_WRITE)
            },
            data,
        ))
    }

    pub fn guest_reads(&mut self) -> Option<Header> {
        (self.state == State::Open).then(|| self.header(CREDIT_UPDATE))
    }

    pub fn guest_ends(&mut self, flags: u32) -> Option<Header> {
        // Once it has ended both directions the connection is no more.
        if self.state != State::Open || self.guest_ended == BOTH {
            return None;
        }
        self.guest_ended |= flags;
        Some(Header {
            flags,
            ..self.header(SHUTDOWN)
        })
    }

    pub fn guest_resets(&mut self) -> Option<Header> {
        let is_known = match self.state {
            State::Waiting => self.kind == Kind::Called,
            State::Asked | State::Open => true,
            State::Gone => false,
        };
        is_known.then(|| {
            let header = self.header(RESET);
            self.state = State::Gone;
            header
        })
    }

    /// The driver has gone.
    pub fn forget(&mut self) {
        if self.state != State::Waiting || self.kind == Kind::Called {
            self.state = State::Gone;
        }
    }

    /// What a guest says that has nothing more to say by itself.
    pub fn answer(&mut self) -> Option<Header> {
        match self.state {
            State::Asked | State::Open if self.told == BOTH => self.guest_resets(),
            State::Open if self.guest_took != self.guest_got => self.guest_reads(),
            _ => None,
        }
    }

    /// Whether a packet of the device is meant for this connection.
    pub fn is_meant(&self, operation: u16, (host, guest): (u32, u32)) -> bool {
        let is_new = self.kind != Kind::Called && self.state == State::Waiting && operation == REQUEST;
        guest == self.guest_port && (is_new || host == self.host_port)
    }

    /// Takes a packet of the device.
    pub fn take(&mut self, header: &Header, data: &[u8]) {
        if self.is_hostile {
            return;
        }
        let is_open = self.state == State::Open;
        match header.operation {
            REQUEST => {
                assert!(self.state == State::Waiting && self.kind != Kind::Called);
                self.state = State::Asked;
                self.host_port = header.source_port;
                if self.kind == Kind::Greeted {
                    self.prefix = format!("OK {}\n", self.host_port).into_bytes();
                }
            }
            RESPONSE => {
                assert!(self.state == State::Waiting && self.kind == Kind::Called);
                self.state = State::Open;
                self.was_open = true;
            }
            RESET => {
                let is_refused = self.state == State::Waiting && self.kind == Kind::Called;
                let is_agreed = self.guest_ended == BOTH || self.state == State::Gone;
                // One that has called the guest gave up, or cannot be told that the guest accepts.
                let cannot_hear = self.is_closed() || self.kind == Kind::Greeted && self.is_host_deaf;
                let gave_up = self.kind != Kind::Called && self.told == 0 && cannot_hear;
                assert!(
                    is_refused || is_agreed || gave_up,
                    "the device ends a connection by itself"
                );
                self.state = State::Gone;
            }
            SHUTDOWN => {
                assert!(is_open && header.flags & !BOTH == 0);
                self.told |= header.flags;
                // A program that takes nothing can send nothing either once the guest takes nothing.
                let can_do_nothing = self.guest_ended & RECEIVE != 0 && self.is_host_deaf;
                assert!(header.flags & SEND == 0 || self.has_host_ended || self.is_closed() || can_do_nothing);
                assert!(header.flags & RECEIVE == 0 || self.is_host_deaf || self.is_closed());
                if header.flags & SEND != 0 && self.guest_ended & RECEIVE == 0 {
                    assert_eq!(
                        self.guest_got, self.host_wrote,
                        "the end comes before the last byte"
                    );
                }
            }
            READ_WRITE => {
                assert!(is_open && self.told & SEND == 0);
                assert!(data == bytes(self.guest_got, data.len(), self.guest_port));
                self.guest_got += data.len();
                assert!(self.guest_got <= self.host_wrote);
                assert!(
                    self.guest_got - self.guest_took <= GRANT as usize,
                    "more than the guest holds"
                );
            }
            CREDIT_UPDATE => assert!(is_open),
            operation => panic!("the device sends {operation}"),
        }
        if self.state != State::Gone {
            let forwarded = header.fwd_cnt as usize;
            assert!((self.forwarded..=self.guest_wrote).contains(&forwarded));
            (self.window, self.forwarded) = (header.buf_alloc as usize, forwarded);
        }
    }

    // The program of the host.

    /// Says where it wants to go.
    pub fn greet(&mut self) {
        let line = format!("CONNECT {}\n", self.guest_port);
        let written = self
            .program
            .as_mut()
            .map(|program| program.write(line.as_bytes()));
        assert!(matches!(written, Some(Ok(count)) if count == line.len()));
    }

    pub fn host_writes(&mut self, count: usize) {
        let Some(program) = self.program.as_mut().filter(|_| !self.has_host_ended) else {
            return;
        };
        match program.write(&bytes(self.host_wrote, count, self.guest_port)) {
            Ok(count) => self.host_wrote += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => (),
            // The device has closed the socket, or takes nothing more.
            Err(_) => {
                assert!(self.state != State::Open || self.guest_ended & RECEIVE != 0 || self.is_hostile)
            }
        }
    }

    /// Returns whether there was something to read.
    pub fn host_reads(&mut self, count: usize) -> bool {
        let Some(program) = self.program.as_mut() else {
            return false;
        };
        let mut data = vec![0; count];
        match program.read(&mut data) {
            Ok(0) => {
                self.has_program_read_end |= count > 0;
                false
            }
            Ok(count) => {
                let prefix = self.prefix.get(self.host_got..).unwrap_or_default();
                let (first, rest) = data[..count].split_at(count.min(prefix.len()));
                let from = (self.host_got + first.len()).saturating_sub(self.prefix.len());
                let is_right = prefix.starts_with(first)
                    && rest == bytes(from, rest.len(), self.guest_port)
                    && from + rest.len() <= self.guest_wrote;
                assert!(
                    self.is_hostile || is_right,
                    "the program reads what the guest has not sent"
                );
                self.host_got += count;
                true
            }
            Err(error) => {
                let is_closed = error.kind() == ErrorKind::ConnectionReset;
                self.has_program_read_end |= is_closed;
                assert!(is_closed || error.kind() == ErrorKind::WouldBlock, "{error}");
                false
            }
        }
    }

    pub fn host_ends(&mut self) {
        self.has_host_ended = true;
        self.shut(Shutdown::Write);
    }

    pub fn host_is_deaf(&mut self) {
        self.is_host_deaf = true;
        self.shut(Shutdown::Read);
    }

    fn shut(&self, how: Shutdown) {
        if let Some(program) = &self.program {
            // It fails when the other end has closed the socket.
            let _ = program.shutdown(how);
        }
    }

    /// Whether the program neither sends nor receives any more.
    fn is_closed(&self) -> bool {
        self.program.is_none() || self.has_host_ended && self.is_host_deaf
    }

    pub fn host_closes(&mut self) {
        self.program = None;
    }

    /// Once nobody has anything for anybody, all has arrived.
    pub fn check(&mut self) {
        if self.is_hostile {
            return;
        }
        let is_heard = self.program.is_some() && !self.is_host_deaf;
        if self.was_open && is_heard {
            assert_eq!(
                self.host_got,
                self.prefix.len() + self.guest_wrote,
                "bytes for the host are lost"
            );
            let has_ended = self.state == State::Gone || self.guest_ended & SEND != 0;
            assert_eq!(self.has_program_read_end, has_ended);
        }
        if self.state != State::Open {
            return;
        }
        assert!(
            !self.is_closed(),
            "the guest is not told that the program has closed its socket"
        );
        assert_ne!(self.guest_ended, BOTH, "the guest's end is not agreed to");
        if self.guest_ended & RECEIVE == 0 {
            assert_eq!(self.guest_got, self.host_wrote, "bytes for the guest are lost");
            assert_eq!(self.told & SEND != 0, self.has_host_ended);
        }
        let may = self.window - (self.guest_wrote - self.forwarded);
        assert!(
            !is_heard || may >= self.window / 2,
            "the guest does not hear that it may send more"
        );
    }
}
