//! The guest's calls to ports of the host, and the sockets that they are connected to.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use super::connector::Connector;
use super::packet::{Header, Ports};

/// What becomes of a call.
pub enum Call {
    /// It is connected to this socket.
    Connected(UnixStream),
    /// [`Calls::next`] will tell.
    Asked,
    Refused,
}

pub struct Calls {
    /// Sockets that Coracle has given for calls to a port, those that were given first in front.
    given: Vec<(u32, UnixStream)>,
    /// Connects to programs of the host.
    connector: Option<Connector>,
    /// The calls that it has been asked for, in order. None for those that nobody waits for any more.
    asked: VecDeque<Option<Header>>,
}

impl Calls {
    pub fn new(connector: Option<Connector>) -> Self {
        Self {
            given: Vec::new(),
            connector,
            asked: VecDeque::new(),
        }
    }

    /// What becomes readable when [`Calls::next`] has something to tell.
    pub fn fd(&self) -> Option<RawFd> {
        self.connector.as_ref().map(Connector::fd)
    }

    /// Has the next call to `port` connected to `host`.
    pub fn give(&mut self, port: u32, host: UnixStream) {
        self.given.push((port, host));
    }

    /// How many calls wait for their socket.
    pub fn waiting(&self) -> usize {
        self.asked.len()
    }

    /// Takes a call, which may wait for its socket if it `may_wait`.
    pub fn take(&mut self, header: &Header, may_wait: bool) -> Call {
        let port = header.destination_port;
        if let Some(index) = self.given.iter().position(|(of, _)| *of == port) {
            return Call::Connected(self.given.remove(index).1);
        }
        let connector = self.connector.as_ref().filter(|_| may_wait);
        match connector.is_some_and(|connector| connector.ask(port).is_ok()) {
            true => {
                self.asked.push_back(Some(*header));
                Call::Asked
            }
            false => Call::Refused,
        }
    }

    /// The guest has given a call up.
    pub fn forget(&mut self, ports: Ports) {
        let is_it = |call: &&mut Option<Header>| call.is_some_and(|header| header.ports() == ports);
        if let Some(call) = self.asked.iter_mut().find(is_it) {
            *call = None;
        }
    }

    /// The guest has gone.
    pub fn forget_all(&mut self) {
        self.asked.iter_mut().for_each(|call| *call = None);
    }

    /// The next call that waited, and the socket that it is connected to, if it is not refused. Once this fails, the guest can
    /// call no program any more, and the calls that still waited are returned by [`Calls::give_up`].
    pub fn next(&mut self) -> io::Result<Option<(Header, Option<UnixStream>)>> {
        while let Some(connector) = &self.connector {
            let host = match connector.answer() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                answer => answer?,
            };
            if let Some(Some(header)) = self.asked.pop_front() {
                return Ok(Some((header, host)));
            }
        }
        Ok(None)
    }

    /// Uses the connector no more. Returns the calls that waited.
    pub fn give_up(&mut self) -> impl Iterator<Item = Header> + use<> {
        self.connector = None;
        std::mem::take(&mut self.asked).into_iter().flatten()
    }
}
