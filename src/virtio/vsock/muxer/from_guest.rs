//! Packets of the guest.

use std::os::unix::net::UnixStream;

use super::Muxer;
use crate::virtio::buffers::Buffers;
use crate::virtio::vsock::calls::Call;
use crate::virtio::vsock::connection::Phase;
use crate::virtio::vsock::packet::{HOST_CID, Header, Operation, Ports};
use crate::virtio::vsock::queues::{QueueError, Queues};
use crate::virtio::vsock::table::CONNECTIONS_MAX;

/// How many packets may wait that tell the guest of a connection that there is none. Beyond that the guest is not told: it
/// asks for connections and gives no buffers for the answers.
const RESETS_MAX: usize = CONNECTIONS_MAX;

impl Muxer {
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
                let is_taken = connection.may_guest_send() && is_whole && connection.receive(data).is_ok();
                if is_taken {
                    self.traffic.count_written(header.length.into());
                }
                is_taken
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
    pub(super) fn take_answers(&mut self) {
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
    pub(super) fn reset(&mut self, cid: u64, ports: Ports) {
        match self.resets.len() < RESETS_MAX {
            true => self.resets.push_back((cid, ports)),
            false => log::debug!("socket device: the guest is not told that there is no connection"),
        }
    }
}
