//! Moves bytes between the device's queues and the sockets of programs of the host. One thread does all of it, and blocks nowhere
//! but in the wait for events.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use log::Level;
use vmm_sys_util::epoll::{EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::calls::{Call, Calls};
use super::connection::{Next, Phase, Read};
use super::connector::Connector;
use super::greeting::Greeting;
use super::packet::{HOST_CID, Header, Operation, Ports};
use super::queues::{QueueError, Queues};
use super::service::{Service, ServicePorts};
use super::table::{CONNECTIONS_MAX, Id, Table};
use crate::virtio::buffers::Buffers;
use crate::virtio::log_limit::LogLimit;

/// The host's ports of connections that begin on the host. Programs of the guest call lower ones.
const FIRST_PORT: u32 = 1 << 30;
/// How many packets may wait that tell the guest of a connection that there is none. Beyond that the guest is not told: it
/// asks for connections and gives no buffers for the answers.
const RESETS_MAX: usize = CONNECTIONS_MAX;
/// How many events are taken at a time, and how many packets are sent before the next events are looked at.
const EVENTS: usize = 64;
const PACKETS: usize = 256;
/// The numbers of what is waited for beside connections.
const LISTENER: u32 = 0;
const WAKE: u32 = 1;
const QUEUE: u32 = 2;
const CONNECTOR: u32 = 3;

/// What Coracle itself wants of the device.
pub enum Command {
    /// Connects a port of the guest to this socket.
    Dial(u32, UnixStream),
    /// Connects the next call of the guest to a port of the host to this socket.
    Answer(u32, UnixStream),
    /// There will be a service.
    Expect(ServicePorts),
    /// Connects the service to this socket once it listens.
    DialService(UnixStream),
}

pub struct Muxer {
    cid: u32,
    table: Table,
    listener: Option<UnixListener>,
    /// Whether programs may wait at the listener, and whether they wait because too many files are open.
    is_called: bool,
    is_starved: bool,
    commands: Receiver<Command>,
    calls: Calls,
    service: Service,
    /// Packets that tell the guest of a connection that there is none, with the address from which they come.
    resets: VecDeque<(u64, Ports)>,
    next_port: u32,
    /// Whether the driver has to be told that it lost all connections.
    pub owes_transport_reset: bool,
    events: Vec<EpollEvent>,
    log: Arc<LogLimit>,
}

impl Muxer {
    /// A muxer for a guest with this address. `wake` becomes readable when there are commands.
    pub fn new(
        cid: u32,
        listener: Option<UnixListener>,
        connector: Option<Connector>,
        service: Service,
        commands: Receiver<Command>,
        wake: &EventFd,
        log: Arc<LogLimit>,
    ) -> io::Result<Self> {
        let table = Table::new()?;
        table.watch(wake.as_raw_fd(), WAKE)?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
            table.watch(listener.as_raw_fd(), LISTENER)?;
        }
        let calls = Calls::new(connector);
        if let Some(fd) = calls.fd() {
            table.watch(fd, CONNECTOR)?;
        }
        Ok(Self {
            cid,
            table,
            calls,
            service,
            listener,
            is_called: false,
            is_starved: false,
            commands,
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
            owes_transport_reset: false,
            events: vec![EpollEvent::default(); EVENTS],
            log,
        })
    }

    /// Waits for the driver's notifications of a queue, too.
    pub fn watch_queue(&self, notifier: &EventFd) -> io::Result<()> {
        self.table.watch(notifier.as_raw_fd(), QUEUE)
    }

    pub fn forget_queue(&self, notifier: &EventFd) {
        self.table.forget(notifier.as_raw_fd());
    }

    /// Waits until something has happened, or only looks, and notes what it was. What the guest has sent before is passed on to the
    /// host, with a driver and without one. Returns how many events there were.
    pub fn wait(&mut self, only_looks: bool) -> io::Result<usize> {
        let timeout = if only_looks { 0 } else { -1 };
        let count = self.table.wait(timeout, &mut self.events)?;
        for index in 0..count {
            let event = self.events[index];
            let id = Id::from_event(event.data());
            match id.other() {
                Some(LISTENER) => self.is_called = true,
                Some(CONNECTOR) => self.take_answers(),
                // The loops look at these by themselves.
                Some(_) => (),
                None => self.note(id, event.event_set()),
            }
        }
        Ok(count)
    }

    fn note(&mut self, id: Id, events: EventSet) {
        let Some(connection) = self.table.get(id) else {
            return;
        };
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP) {
            connection.is_readable = true;
        }
        if events.intersects(EventSet::READ_HANG_UP | EventSet::HANG_UP) {
            connection.sends_no_more = true;
        }
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            connection.hang_up();
        }
        if connection.holds_bytes() {
            connection.flush();
            if connection.phase == Phase::Draining && !connection.holds_bytes() {
                return self.table.remove(id);
            }
            self.table.adjust(id);
        }
        self.table.list(id);
    }

    /// Takes what Coracle wants.
    pub fn take_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Dial(_, host) | Command::Answer(_, host) | Command::DialService(host) = &command
                && let Err(error) = host.set_nonblocking(true)
            {
                log::debug!("socket device: {error}");
                continue;
            }
            match command {
                Command::Dial(port, host) => self.dial(port, host),
                Command::Answer(port, host) => self.calls.give(port, host),
                Command::Expect(ports) => self.service.expect(ports),
                Command::DialService(host) => {
                    if let Some((port, host)) = self.service.take(host) {
                        self.dial(port, host);
                    }
                }
            }
        }
    }

    fn dial(&mut self, guest: u32, socket: UnixStream) {
        let host = self.free_port(guest);
        let phase = Phase::Requested {
            is_sent: false,
            is_announced: false,
        };
        match self.table.add(socket, phase, Ports { host, guest }) {
            Ok(id) => self.table.list(id),
            Err(error) => self.warn(format_args!("port {guest} of the guest is not called: {error}")),
        }
    }

    /// A port of the host that no connection to this port of the guest has.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            // There are more ports than connections.
            if self.table.find(Ports { host, guest }).is_none() {
                return host;
            }
        }
    }

    pub fn warn(&self, line: std::fmt::Arguments) {
        self.log.log(Level::Warn, format_args!("socket device: {line}"));
    }

    /// Accepts the programs that wait at the listener.
    pub fn accept(&mut self) {
        let is_called = self.is_called || std::mem::take(&mut self.is_starved);
        let Some(listener) = self.listener.as_ref().filter(|_| is_called) else {
            return;
        };
        for _ in 0..EVENTS {
            let host = match listener.accept() {
                Ok((host, _)) => host,
                Err(error) => {
                    // Those that come later cause an event.
                    self.is_called = false;
                    // With too many open files it is tried again at any event, such as the end of a connection.
                    self.is_starved = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                    return;
                }
            };
            let ports = Ports { host: 0, guest: 0 };
            let added = host
                .set_nonblocking(true)
                .and_then(|()| self.table.add(host, Phase::Greeting, ports));
            match added {
                Ok(id) => self.table.list(id),
                Err(error) => {
                    let line = format_args!("socket device: a program is turned away: {error}");
                    self.log.log(Level::Warn, line);
                }
            }
        }
    }

    /// Whether there is work that does not wait for an event.
    pub fn has_work(&self) -> bool {
        self.is_called || self.table.first_listed().is_some() || !self.resets.is_empty()
    }

    // The guest's packets.

    /// Takes packets of the driver. Returns whether it may have more of them.
    pub fn take_packets<'m>(
        &mut self,
        queues: &mut Queues<'m>,
        data: &mut Buffers<'m>,
    ) -> Result<bool, QueueError> {
        for _ in 0..queues.transmit_size() {
            let Some(packet) = queues.take(data)? else {
                return Ok(false);
            };
            match packet.header {
                Some(header) => self.handle(&header, data),
                None => log::debug!("socket device: a packet without a header"),
            }
            queues.complete(packet)?;
        }
        Ok(true)
    }

    fn handle(&mut self, header: &Header, data: &mut Buffers) {
        if header.source_cid != u64::from(self.cid) {
            return log::debug!("socket device: the driver sent a packet of another guest: ignored");
        }
        let ports = header.ports();
        let operation = header.operation();
        let id = match header.destination_cid {
            HOST_CID => self.table.find(ports),
            // There is nobody else.
            _ => None,
        };
        let Some(id) = id else {
            return match operation {
                Some(Operation::Request) if header.destination_cid == HOST_CID => self.take_call(header),
                Some(Operation::Reset) => self.calls.forget(ports),
                _ => self.reset(header.destination_cid, ports),
            };
        };
        let Some(connection) = self.table.get(id) else {
            return;
        };
        connection.learn(header);
        let is_established = connection.phase == Phase::Established;
        let is_right = match operation {
            Some(Operation::Response) => {
                matches!(connection.phase, Phase::Requested { is_sent: true, .. })
                    && connection.accept().is_ok()
            }
            Some(Operation::ReadWrite) => {
                let is_whole = u64::from(header.length) <= data.length();
                data.truncate(header.length.into());
                connection.may_guest_send() && is_whole && connection.receive(data).is_ok()
            }
            Some(Operation::Shutdown) => {
                connection.end_by_guest(header.flags);
                // Section 5.10.6.5: when both directions have ended, the other side agrees by a reset.
                is_established && !connection.is_ended_by_guest()
            }
            Some(Operation::CreditUpdate) => is_established,
            Some(Operation::CreditRequest) => {
                connection.ask_for_credit();
                is_established
            }
            Some(Operation::Reset) => return self.table.close(id),
            // A packet that there is not, or a call on ports that have a connection.
            Some(Operation::Request) | None => false,
        };
        if is_right {
            self.table.adjust(id);
            self.table.list(id);
        } else {
            self.table.close(id);
            self.table.adjust(id);
            self.reset(HOST_CID, ports);
        }
    }

    /// A program of the guest calls a port of the host.
    fn take_call(&mut self, header: &Header) {
        if let Some((port, waiting)) = self.service.tells(header.destination_port) {
            waiting.into_iter().for_each(|host| self.dial(port, host));
            return self.reset(HOST_CID, header.ports());
        }
        let may_wait = self.table.count() + self.calls.waiting() < CONNECTIONS_MAX;
        match self.calls.take(header, may_wait) {
            Call::Connected(host) => self.connect(header, host),
            Call::Asked => (),
            Call::Refused => self.reset(HOST_CID, header.ports()),
        }
    }

    /// Takes the sockets that calls have waited for.
    fn take_answers(&mut self) {
        loop {
            match self.calls.next() {
                Ok(Some((header, Some(host)))) => self.connect(&header, host),
                Ok(Some((header, None))) => self.reset(HOST_CID, header.ports()),
                Ok(None) => return,
                Err(error) => {
                    self.warn(format_args!("the guest can call no program any more: {error}"));
                    for header in self.calls.give_up() {
                        self.reset(HOST_CID, header.ports());
                    }
                    return;
                }
            }
        }
    }

    /// Connects a call of the guest to this socket.
    fn connect(&mut self, header: &Header, host: UnixStream) {
        let ports = header.ports();
        // The guest may have called twice.
        if self.table.find(ports).is_some() {
            return;
        }
        match self.table.add(host, Phase::Established, ports) {
            Ok(id) => {
                if let Some(connection) = self.table.get(id) {
                    connection.learn(header);
                }
                self.table.list(id);
            }
            Err(error) => {
                self.warn(format_args!(
                    "the guest's call to port {} is refused: {error}",
                    ports.host
                ));
                self.reset(HOST_CID, ports);
            }
        }
    }

    /// Has the guest told that there is no such connection with the host, or with the address that it takes for a host's.
    fn reset(&mut self, cid: u64, ports: Ports) {
        match self.resets.len() < RESETS_MAX {
            true => self.resets.push_back((cid, ports)),
            false => log::debug!("socket device: the guest is not told that there is no connection"),
        }
    }

    // Packets for the guest.

    /// Sends packets to the driver. Returns whether it has no buffers for more, although there are.
    pub fn send_packets(&mut self, queues: &mut Queues) -> Result<bool, QueueError> {
        if self.owes_transport_reset {
            self.owes_transport_reset = !queues.send_transport_reset()?;
        }
        for _ in 0..PACKETS {
            if let Some(&(source_cid, ports)) = self.resets.front() {
                let header = Header {
                    source_cid,
                    ..Header::to_guest(self.cid, ports, Operation::Reset)
                };
                if !queues.send(&header)? {
                    return Ok(true);
                }
                self.resets.pop_front();
                continue;
            }
            let Some(id) = self.table.first_listed() else {
                return Ok(false);
            };
            let has_room = self.send_next(id, queues)?;
            if !has_room {
                return Ok(true);
            }
            self.table.unlist(id);
            let next = self.table.get(id).map(|connection| connection.next());
            if !matches!(next, None | Some(Next::Nothing)) {
                self.table.list(id);
            }
        }
        Ok(false)
    }

    /// Sends what a connection would send next. Returns whether the driver had a buffer for it.
    fn send_next(&mut self, id: Id, queues: &mut Queues) -> Result<bool, QueueError> {
        let Some(connection) = self.table.get(id) else {
            return Ok(true);
        };
        match connection.phase {
            Phase::Greeting => {
                self.greet(id);
                return Ok(true);
            }
            Phase::Requested { is_sent, .. } if connection.is_hung_up() => {
                let ports = connection.ports;
                self.table.remove(id);
                if is_sent {
                    self.reset(HOST_CID, ports);
                }
                return Ok(true);
            }
            _ => (),
        }
        match connection.next() {
            Next::Nothing => Ok(true),
            Next::Packet(operation) => {
                let header = connection.packet(self.cid, operation);
                let is_sent = queues.send(&header)?;
                if is_sent {
                    connection.sent(operation);
                }
                Ok(is_sent)
            }
            Next::Data => {
                let (chains, limit) = connection.wish();
                let Some(room) = queues.room(chains, limit)? else {
                    return Ok(false);
                };
                match connection.read(room) {
                    Read::Nothing => queues.give_room_back(),
                    Read::Data(count) => {
                        let header = connection.packet(self.cid, Operation::ReadWrite);
                        let is_full = queues.send_data(count, header)?;
                        connection.sent(Operation::ReadWrite);
                        connection.filled(is_full);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Takes what a program says of where it wants to go.
    fn greet(&mut self, id: Id) {
        let Some(connection) = self.table.get(id) else {
            return;
        };
        connection.is_readable = false;
        match connection.greet() {
            Ok(Greeting::Port(guest)) => {
                // What follows may be there already.
                connection.is_readable = true;
                connection.phase = Phase::Requested {
                    is_sent: false,
                    is_announced: true,
                };
                let host = self.free_port(guest);
                self.table.name(id, Ports { host, guest });
            }
            Ok(Greeting::Incomplete) if !connection.sends_no_more => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Ok(Greeting::Incomplete | Greeting::Wrong) | Err(_) => self.table.remove(id),
        }
    }

    /// How many connections there are, and how many bytes wait for the host in all of them.
    #[cfg(fuzzing)]
    pub fn held(&mut self) -> (usize, usize) {
        let ids = self.table.ids();
        let held = |id: &Id| self.table.get(*id).map_or(0, |connection| connection.held());
        (ids.len(), ids.iter().map(held).sum())
    }

    // What becomes of connections without a driver.

    /// The driver has gone, and with it all connections of which it knew. Those that it has not heard of wait for the next one.
    pub fn forget_guest(&mut self) {
        self.resets.clear();
        self.calls.forget_all();
        self.service.forget_guest();
        for id in self.table.ids() {
            let phase = self.table.get(id).map(|connection| connection.phase);
            if let Some(Phase::Established | Phase::Requested { is_sent: true, .. }) = phase {
                self.table.close(id);
                self.table.adjust(id);
            }
        }
    }
}
