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

use super::calls::Calls;
use super::connection::Phase;
use super::connector::Connector;
use super::packet::Ports;
use super::service::{Service, ServicePorts};
use super::table::{Id, Table};
use crate::virtio::log_limit::LogLimit;
use crate::virtio::traffic::Traffic;

mod from_guest;
mod to_guest;

/// The host's ports of connections that begin on the host. Programs of the guest call lower ones.
const FIRST_PORT: u32 = 1 << 30;
/// How many events are taken at a time.
const EVENTS: usize = 64;
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
    /// What the guest receives and sends.
    traffic: Arc<Traffic>,
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
            traffic: Arc::default(),
        })
    }

    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
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
