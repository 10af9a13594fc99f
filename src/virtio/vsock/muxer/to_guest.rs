//! Packets for the guest.

use std::io;

use super::Muxer;
use crate::virtio::vsock::connection::{Next, Phase, Read};
use crate::virtio::vsock::greeting::Greeting;
use crate::virtio::vsock::packet::{HOST_CID, Header, Operation, Ports};
use crate::virtio::vsock::queues::{QueueError, Queues};
use crate::virtio::vsock::table::Id;

/// How many packets are sent before the next events are looked at.
const PACKETS: usize = 256;

impl Muxer {
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
                        self.traffic.count_read(count.into());
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
}
