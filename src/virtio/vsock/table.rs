//! All connections of a guest, and the sockets that are waited for.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, Phase};
use super::packet::Ports;

/// How many connections a guest may have. Those count, too, that still say where they want to go, and those of which the guest
/// knows no more.
pub const CONNECTIONS_MAX: usize = 1024;
/// How many bytes may wait for the host in a connection, while less than half of the budget is given away, and afterwards.
/// A guest sees this as `buf_alloc`.
const WINDOW: u32 = 256 << 10;
const SMALL_WINDOW: u32 = 32 << 10;
/// How many bytes may wait for the host in all connections together.
const BUDGET: usize = 64 << 20;

/// Names a connection. The name is not used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    slot: u32,
    /// How many connections the slot had before.
    generation: u32,
}

/// A generation that is never reached: events with it are not a connection's.
pub const OTHERS: u32 = u32::MAX;

impl Id {
    /// As the number that comes with an event.
    fn to_event(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub fn from_event(data: u64) -> Self {
        Self {
            slot: data as u32,
            generation: (data >> 32) as u32,
        }
    }

    /// Whether it names something that is no connection, and which.
    pub fn other(self) -> Option<u32> {
        (self.generation == OTHERS).then_some(self.slot)
    }
}

/// A place for a connection.
#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

pub struct Table {
    epoll: Epoll,
    slots: Vec<Slot>,
    /// Slots without a connection.
    free: Vec<u32>,
    /// The connections of which the guest knows or will know.
    by_ports: BTreeMap<Ports, Id>,
    /// The connections that have something for the guest, each once.
    ready: VecDeque<Id>,
    /// The sum of all windows.
    promised: usize,
}

impl Table {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            slots: Vec::new(),
            free: Vec::new(),
            by_ports: BTreeMap::new(),
            ready: VecDeque::new(),
            promised: 0,
        })
    }

    /// Waits for events, edge-triggered.
    pub fn wait(&self, timeout_ms: i32, events: &mut [EpollEvent]) -> io::Result<usize> {
        match self.epoll.wait(timeout_ms, events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            waited => waited,
        }
    }

    /// Has events of `fd`, which is no connection's, reported as `number`.
    pub fn watch(&self, fd: RawFd, number: u32) -> io::Result<()> {
        let id = Id {
            slot: number,
            generation: OTHERS,
        };
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(events, id.to_event());
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    /// Undoes [`Table::watch`].
    pub fn forget(&self, fd: RawFd) {
        if let Err(error) = self
            .epoll
            .ctl(ControlOperation::Delete, fd, EpollEvent::default())
        {
            log::debug!("socket device: {error}");
        }
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_full(&self) -> bool {
        self.count() >= CONNECTIONS_MAX
    }

    /// Adds a connection whose program of the host is at the other end of `host`, which does not block. Fails if there are
    /// too many.
    pub fn add(&mut self, host: UnixStream, phase: Phase, ports: Ports) -> io::Result<Id> {
        if self.is_full() {
            return Err(io::Error::other("the guest has too many connections"));
        }
        let window = match self.promised + WINDOW as usize <= BUDGET / 2 {
            true => WINDOW,
            false => SMALL_WINDOW,
        };
        let slot = match self.free.last() {
            Some(&slot) => slot,
            None => self.slots.len() as u32,
        };
        let id = Id {
            slot,
            generation: self.slots.get(slot as usize).map_or(0, |slot| slot.generation),
        };
        let event = EpollEvent::new(CALM, id.to_event());
        self.epoll.ctl(ControlOperation::Add, host.as_raw_fd(), event)?;
        if self.free.pop().is_none() {
            self.slots.push(Slot::default());
        }
        self.promised += window as usize;
        self.slots[slot as usize].connection = Some(Connection::new(host, phase, ports, window));
        if phase != Phase::Greeting {
            self.by_ports.insert(ports, id);
        }
        Ok(id)
    }

    pub fn get(&mut self, id: Id) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        match slot.generation == id.generation {
            true => slot.connection.as_mut(),
            false => None,
        }
    }

    /// The connection of which the guest knows by these ports.
    pub fn find(&self, ports: Ports) -> Option<Id> {
        self.by_ports.get(&ports).copied()
    }

    /// Gives a connection its ports, which no other one has.
    pub fn name(&mut self, id: Id, ports: Ports) {
        if let Some(connection) = self.get(id) {
            connection.ports = ports;
            self.by_ports.insert(ports, id);
        }
    }

    /// Has the connection noted as one that may have something for the guest.
    pub fn list(&mut self, id: Id) {
        if let Some(connection) = self.get(id)
            && !connection.is_listed
        {
            connection.is_listed = true;
            self.ready.push_back(id);
        }
    }

    /// The connection that has waited longest of those that are listed.
    pub fn first_listed(&self) -> Option<Id> {
        self.ready.front().copied()
    }

    /// Takes a connection from the list.
    pub fn unlist(&mut self, id: Id) {
        if let Some(connection) = self.get(id)
            && connection.is_listed
        {
            connection.is_listed = false;
            // Mostly it is the first one.
            if self.ready.front() == Some(&id) {
                self.ready.pop_front();
            } else {
                self.ready.retain(|other| *other != id);
            }
        }
    }

    /// Waits until a connection's socket can be written if bytes wait for it, and not otherwise.
    pub fn adjust(&mut self, id: Id) {
        let Some(connection) = self.get(id) else { return };
        let waits = connection.holds_bytes();
        if waits == connection.waits_for_room {
            return;
        }
        connection.waits_for_room = waits;
        let fd = connection.fd();
        let events = match waits {
            true => CALM | EventSet::OUT,
            false => CALM,
        };
        let event = EpollEvent::new(events, id.to_event());
        // When this adds an event that is there already, it is reported.
        if let Err(error) = self.epoll.ctl(ControlOperation::Modify, fd, event) {
            log::debug!("socket device: {error}");
            self.remove(id);
        }
    }

    /// Ends a connection for the guest. What the guest sent before is still passed on to the host.
    pub fn close(&mut self, id: Id) {
        let Some(connection) = self.get(id) else { return };
        let (ports, holds_bytes) = (connection.ports, connection.holds_bytes());
        connection.phase = Phase::Draining;
        if self.find(ports) == Some(id) {
            self.by_ports.remove(&ports);
        }
        if !holds_bytes {
            self.remove(id);
        }
    }

    /// Drops a connection, which closes its socket.
    pub fn remove(&mut self, id: Id) {
        self.unlist(id);
        let Some(connection) = self.get(id) else { return };
        let (ports, window) = (connection.ports, connection.window());
        if self.find(ports) == Some(id) {
            self.by_ports.remove(&ports);
        }
        self.promised -= window as usize;
        let slot = &mut self.slots[id.slot as usize];
        // The kernel ends the wait for a socket that is closed.
        slot.connection = None;
        slot.generation += 1;
        // A slot whose numbers are used up is not used again.
        if slot.generation != OTHERS {
            self.free.push(id.slot);
        }
    }

    /// All connections.
    pub fn ids(&self) -> Vec<Id> {
        let id = |(slot, place): (u32, &Slot)| {
            place.connection.as_ref().map(|_| Id {
                slot,
                generation: place.generation,
            })
        };
        (0..).zip(&self.slots).filter_map(id).collect()
    }
}

/// What is waited for while no byte waits for the host.
const CALM: EventSet = EventSet::IN
    .union(EventSet::READ_HANG_UP)
    .union(EventSet::EDGE_TRIGGERED);

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &mut Table, guest: u32) -> Id {
        let (_program, device) = UnixStream::pair().unwrap();
        let ports = Ports { host: 1, guest };
        let id = table.add(device, Phase::Established, ports).unwrap();
        table.list(id);
        id
    }

    #[test]
    fn a_connection_that_is_removed_is_listed_no_more() {
        let mut table = Table::new().unwrap();
        let first = add(&mut table, 1);
        let second = add(&mut table, 2);
        for _ in 0..10 {
            let id = add(&mut table, 3);
            table.remove(id);
        }
        assert_eq!(table.ready, [first, second]);
        // The connection that is being served is removed, and then taken from the list as ever.
        table.remove(first);
        table.unlist(first);
        assert_eq!(table.first_listed(), Some(second));
    }
}
