//! A connection between a program of the host and one of the guest: what it still has to tell the guest, and the bytes on their
//! way to the host. Bytes on their way to the guest wait in the host's socket.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use super::credit::{Credit, Overrun};
use super::greeting::{self, Greeting};
use super::packet::{Header, Operation, Ports, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::queues::BATCH;
use crate::virtio::buffers::Buffers;

/// How many chains a read from the socket may fill. It is doubled by each read that fills all of them, up to a batch.
const CHAINS_FIRST: u16 = 1;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A program of the host has connected, and has to say to which port of the guest.
    Greeting,
    /// The guest has to answer.
    Requested {
        /// Whether it has been asked.
        is_sent: bool,
        /// Whether the program waits for the words of [`greeting::answer`].
        is_announced: bool,
    },
    Established,
    /// The guest knows the connection no more. Bytes for the host are left.
    Draining,
}

/// What a connection would send to the guest next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Packet(Operation),
    /// Data, if the host has any.
    Data,
    Nothing,
}

/// What came of reading from the host's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Data(u32),
    /// There is nothing more to be sent now.
    Nothing,
}

pub struct Connection {
    host: UnixStream,
    pub phase: Phase,
    /// Not yet known while the program of the host has not said them.
    pub ports: Ports,
    credit: Credit,
    /// What the guest has sent and the host has not taken. Its length is bounded by the credit's window.
    to_host: VecDeque<u8>,
    /// Whether the host's socket may have something to read.
    pub is_readable: bool,
    /// Whether all that the host's program will ever send is in the socket, or was read.
    pub sends_no_more: bool,
    /// Whether the host's program has closed the connection, and not only ended its own direction.
    is_hung_up: bool,
    /// Whether all that the host sends has been read.
    has_host_ended: bool,
    /// Whether the host's program takes nothing any more. What comes for it is thrown away.
    is_host_deaf: bool,
    /// Flags of SHUTDOWN: what the guest has ended, and what it has been told that the host ended.
    ended_by_guest: u32,
    ended_by_host: u32,
    /// What the guest has to be told.
    is_response_due: bool,
    is_credit_due: bool,
    /// How many chains the next read may fill.
    chains: u16,
    /// Whether the table of connections has it in the list of those that have work.
    pub is_listed: bool,
    /// Whether the table waits until the socket can be written.
    pub waits_for_room: bool,
}

impl Connection {
    /// `host` does not block. `window` is how many bytes may wait for it.
    pub fn new(host: UnixStream, phase: Phase, ports: Ports, window: u32) -> Self {
        Self {
            host,
            ports,
            credit: Credit::new(window),
            to_host: VecDeque::new(),
            is_readable: false,
            sends_no_more: false,
            is_hung_up: false,
            has_host_ended: false,
            is_host_deaf: false,
            ended_by_guest: 0,
            ended_by_host: 0,
            is_response_due: phase == Phase::Established,
            is_credit_due: false,
            chains: CHAINS_FIRST,
            is_listed: false,
            waits_for_room: false,
            phase,
        }
    }

    pub fn fd(&self) -> RawFd {
        self.host.as_raw_fd()
    }

    pub fn window(&self) -> u32 {
        self.credit.window()
    }

    /// Whether bytes wait for the host.
    pub fn holds_bytes(&self) -> bool {
        !self.to_host.is_empty()
    }

    /// How many bytes wait for the host.
    #[cfg(fuzzing)]
    pub fn held(&self) -> usize {
        self.to_host.len()
    }

    pub fn greet(&self) -> io::Result<Greeting> {
        greeting::read(&self.host)
    }

    /// Notes that the host's program has closed its socket.
    pub fn hang_up(&mut self) {
        self.is_hung_up = true;
        self.is_readable = true;
    }

    pub fn is_hung_up(&self) -> bool {
        self.is_hung_up
    }

    // What the guest sends.

    /// Notes what a packet of the guest says of the guest.
    #[inline]
    pub fn learn(&mut self, header: &Header) {
        self.credit.learn(header);
    }

    /// The guest has accepted the connection. Fails if the program of the host cannot be told.
    pub fn accept(&mut self) -> io::Result<()> {
        if let Phase::Requested {
            is_announced: true, ..
        } = self.phase
        {
            let answer = greeting::answer(self.ports.host);
            let iovec = libc::iovec {
                iov_base: answer.as_ptr().cast_mut().cast(),
                iov_len: answer.len(),
            };
            // These are the first bytes, so they fit.
            if self.write(&[iovec]) != answer.len() as u64 {
                return Err(ErrorKind::BrokenPipe.into());
            }
        }
        self.phase = Phase::Established;
        Ok(())
    }

    /// Passes the guest's bytes on to the host. Those that the host does not take now are kept.
    pub fn receive(&mut self, data: &mut Buffers) -> Result<(), Overrun> {
        let count = u32::try_from(data.length()).map_err(|_| Overrun)?;
        self.credit.receive(count)?;
        if self.to_host.is_empty() && count > 0 && !self.is_host_deaf {
            let written = self.write(data.iovecs());
            data.advance(written);
            self.credit.forward(written as u32);
        }
        if self.is_host_deaf {
            self.credit.forward(data.length() as u32);
        } else {
            self.keep(data);
        }
        self.is_credit_due |= self.credit.update_is_due();
        Ok(())
    }

    fn keep(&mut self, data: &mut Buffers) {
        let mut piece = [0; 4096];
        while data.length() > 0 {
            let count = data.copy_to(&mut piece);
            self.to_host.extend(&piece[..count]);
            data.advance(count as u64);
        }
    }

    /// Passes on what was kept, as far as the host takes it.
    pub fn flush(&mut self) {
        while !self.to_host.is_empty() {
            let (first, rest) = self.to_host.as_slices();
            let iovecs = [first, rest].map(|part| libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            });
            let written = self.write(&iovecs) as usize;
            if self.is_host_deaf || written == 0 {
                break;
            }
            self.to_host.drain(..written);
            self.credit.forward(written as u32);
        }
        if self.is_host_deaf {
            self.credit.forward(self.to_host.len() as u32);
            self.to_host.clear();
        }
        if self.to_host.is_empty() {
            // Its memory is given back.
            self.to_host = VecDeque::new();
            if self.ended_by_guest & SHUTDOWN_SEND != 0 {
                self.shut(Shutdown::Write);
            }
        }
        self.is_credit_due |= self.credit.update_is_due();
    }

    /// Writes to the host without waiting. Returns how many bytes it took.
    fn write(&mut self, iovecs: &[libc::iovec]) -> u64 {
        // SAFETY: the pieces are guest memory or our own, live during the call, and the kernel only reads them. The standard
        // library ignores SIGPIPE.
        let written = unsafe { libc::writev(self.fd(), iovecs.as_ptr(), iovecs.len() as libc::c_int) };
        match u64::try_from(written) {
            Ok(written) => written,
            Err(_) => {
                let error = io::Error::last_os_error();
                if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
                    // The program has closed its socket. What it sent before can still be read.
                    self.is_host_deaf = true;
                }
                0
            }
        }
    }

    /// The guest says that it sends, or receives, no more.
    pub fn end_by_guest(&mut self, flags: u32) {
        let new = flags & SHUTDOWN_BOTH & !self.ended_by_guest;
        self.ended_by_guest |= new;
        if new & SHUTDOWN_RECEIVE != 0 {
            self.shut(Shutdown::Read);
        }
        if new & SHUTDOWN_SEND != 0 && self.to_host.is_empty() {
            self.shut(Shutdown::Write);
        }
    }

    fn shut(&self, how: Shutdown) {
        if let Err(error) = self.host.shutdown(how) {
            log::debug!("socket device: shutdown of a program's socket: {error}");
        }
    }

    /// Whether the guest has ended both directions.
    pub fn is_ended_by_guest(&self) -> bool {
        self.ended_by_guest == SHUTDOWN_BOTH
    }

    /// Whether the guest may send data.
    pub fn may_guest_send(&self) -> bool {
        self.phase == Phase::Established && self.ended_by_guest & SHUTDOWN_SEND == 0
    }

    /// The guest asks how much it may send.
    pub fn ask_for_credit(&mut self) {
        self.is_credit_due = true;
    }

    // What is sent to the guest.

    pub fn next(&self) -> Next {
        match self.phase {
            Phase::Requested { is_sent: false, .. } => Next::Packet(Operation::Request),
            Phase::Established if self.is_response_due => Next::Packet(Operation::Response),
            Phase::Established if self.has_data() => Next::Data,
            Phase::Established if self.host_end() & !self.ended_by_host != 0 => {
                Next::Packet(Operation::Shutdown)
            }
            Phase::Established if self.is_credit_due => Next::Packet(Operation::CreditUpdate),
            _ => Next::Nothing,
        }
    }

    fn has_data(&self) -> bool {
        self.is_readable
            && !self.has_host_ended
            && self.ended_by_guest & SHUTDOWN_RECEIVE == 0
            && self.credit.available() > 0
    }

    /// What the host has ended, as flags of SHUTDOWN.
    fn host_end(&self) -> u32 {
        // What the guest does not receive is not read, so its end is not seen by reading.
        let is_unread = self.ended_by_guest & SHUTDOWN_RECEIVE != 0;
        let has_ended = self.has_host_ended || is_unread && self.is_hung_up;
        let ends_sending = match has_ended {
            true => SHUTDOWN_SEND,
            false => 0,
        };
        let ends_receiving = match self.is_host_deaf || has_ended && self.is_hung_up {
            true => SHUTDOWN_RECEIVE,
            false => 0,
        };
        ends_sending | ends_receiving
    }

    /// The packet for `operation`, which is the next one.
    pub fn packet(&self, cid: u32, operation: Operation) -> Header {
        let mut header = Header::to_guest(cid, self.ports, operation);
        if operation == Operation::Shutdown {
            header.flags = self.host_end();
        }
        self.credit.tell(&mut header);
        header
    }

    /// Notes that the packet for `operation` was sent.
    pub fn sent(&mut self, operation: Operation) {
        self.credit.told();
        self.is_credit_due = false;
        match operation {
            Operation::Request => {
                if let Phase::Requested { is_sent, .. } = &mut self.phase {
                    *is_sent = true;
                }
            }
            Operation::Response => self.is_response_due = false,
            Operation::Shutdown => self.ended_by_host |= self.host_end(),
            _ => (),
        }
    }

    /// How many chains and how many bytes the next read may fill.
    pub fn wish(&self) -> (u16, u32) {
        (self.chains, self.credit.available())
    }

    /// Reads what the host has into `room`.
    pub fn read(&mut self, room: &Buffers) -> Read {
        let iovecs = room.iovecs();
        // SAFETY: the pieces are guest memory, which lives during the call and to which no Rust reference exists.
        let read = unsafe { libc::readv(self.fd(), iovecs.as_ptr(), iovecs.len() as libc::c_int) };
        match u32::try_from(read) {
            Ok(0) => self.has_host_ended = true,
            Ok(count) => {
                self.credit.send(count);
                return Read::Data(count);
            }
            Err(_) => match io::Error::last_os_error().kind() {
                ErrorKind::Interrupted => (),
                ErrorKind::WouldBlock => self.is_readable = false,
                // The program has closed its socket without reading all that it was sent.
                _ => self.has_host_ended = true,
            },
        }
        Read::Nothing
    }

    /// Notes whether the last read filled all of its room.
    pub fn filled(&mut self, all: bool) {
        self.chains = match all {
            true => (self.chains * 2).min(BATCH),
            false => CHAINS_FIRST.max(self.chains / 2),
        };
    }
}
