//! The device's queues: packets from and to the driver (virtio 1.2 section 5.10.2).

use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::packet::{EVENT_TRANSPORT_RESET, HEADER_SIZE, Header};
use crate::virtio::buffers::Buffers;
use crate::virtio::chain::{self, Endless};
use crate::virtio::recent_memory::RecentMemory;
use crate::virtio::split_queue::{self, SplitQueue};
use crate::virtio::{ActiveQueue, QueuePosition, VirtioInterrupt};

/// Indices of the queues.
pub const RECEIVE: u16 = 0;
pub const TRANSMIT: u16 = 1;
pub const EVENT: u16 = 2;
pub const QUEUES: usize = 3;

/// How many chains one read from a socket may fill.
pub const BATCH: u16 = 32;
/// A batch gets no further chain when it has so many pieces. A system call takes 1024, and a chain has no more than two for each
/// of the descriptors of its queue, of which the longest has 256.
const BATCH_PIECES: usize = 256;

/// A fault after which the device needs a reset (section 2.1.2).
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error(transparent)]
    Ring(#[from] split_queue::Error),
    #[error(transparent)]
    Chain(#[from] Endless),
    #[error("the driver has not made its queue {0} ready")]
    NotReady(u16),
}

/// The queues of a driver that runs.
pub struct Queues<'m> {
    queues: [SplitQueue<'m>; QUEUES],
    /// Whether chains of the queue were used of which the driver has not been notified yet.
    used: [bool; QUEUES],
    memory: RecentMemory<'m>,
    interrupt: &'m VirtioInterrupt,
    batch: Batch<'m>,
}

/// Chains of the receive queue that one read from a socket fills.
#[derive(Default)]
struct Batch<'m> {
    places: Vec<Place<'m>>,
    /// How many of the places are taken. The others are there to be used again.
    count: usize,
    /// The room for data of all places, one after the other.
    data: Buffers<'m>,
}

/// A chain of the receive queue.
#[derive(Default)]
struct Place<'m> {
    head: u16,
    header: Buffers<'m>,
    /// How many bytes of data it takes.
    room: u32,
}

/// A packet that the driver has made available.
pub struct Packet {
    head: u16,
    /// None if the packet is shorter than a header, or leaves guest memory.
    pub header: Option<Header>,
}

impl<'m> Queues<'m> {
    /// The queues of the driver, in `memory`.
    pub fn new(
        memory: &'m GuestMemoryMmap,
        active: &[ActiveQueue],
        interrupt: &'m VirtioInterrupt,
    ) -> Result<Self, QueueError> {
        let queue = |index| {
            let queue = active.iter().find(|queue| queue.index == index);
            let queue = queue.ok_or(QueueError::NotReady(index))?;
            Ok::<_, QueueError>(SplitQueue::new(memory, &queue.queue)?)
        };
        Ok(Self {
            queues: [queue(RECEIVE)?, queue(TRANSMIT)?, queue(EVENT)?],
            used: [false; QUEUES],
            memory: RecentMemory::new(memory),
            interrupt,
            batch: Batch::default(),
        })
    }

    fn queue(&mut self, index: u16) -> &mut SplitQueue<'m> {
        &mut self.queues[usize::from(index)]
    }

    pub fn positions(&self) -> Vec<QueuePosition> {
        let position = |(queue, split): (u16, &SplitQueue)| {
            let (next_available, next_used) = split.next();
            QueuePosition {
                queue,
                next_available,
                next_used,
            }
        };
        (0..).zip(&self.queues).map(position).collect()
    }

    /// How many packets the transmit queue can hold.
    pub fn transmit_size(&self) -> u16 {
        self.queues[usize::from(TRANSMIT)].size()
    }

    /// Takes the driver's next packet, if there is one, with its data. To be given back by [`Queues::complete`] before anything else.
    pub fn take(&mut self, data: &mut Buffers<'m>) -> Result<Option<Packet>, QueueError> {
        let queue = &mut self.queues[usize::from(TRANSMIT)];
        let Some(head) = queue.take()? else {
            return Ok(None);
        };
        data.clear();
        let mut has_holes = false;
        chain::walk(
            &mut self.memory,
            queue.table(),
            head,
            queue.size(),
            |memory, descriptor| {
                if !descriptor.is_write_only() {
                    has_holes |= !chain::pieces(memory, descriptor, |slice| data.push(slice));
                }
            },
        )?;
        let header = match has_holes {
            true => None,
            false => data.take().map(|bytes| Header::from_bytes(&bytes)),
        };
        Ok(Some(Packet { head, header }))
    }

    /// Gives a packet back to the driver.
    pub fn complete(&mut self, packet: Packet) -> Result<(), QueueError> {
        self.queue(TRANSMIT).add_used(packet.head, 0)?;
        self.used[usize::from(TRANSMIT)] = true;
        Ok(())
    }

    /// Sends a packet without data. Returns whether the driver had a buffer for it.
    pub fn send(&mut self, header: &Header) -> Result<bool, QueueError> {
        if self.room(1, 0)?.is_none() {
            return Ok(false);
        }
        let place = &self.batch.places[0];
        place.header.copy_from(&header.to_bytes());
        let head = place.head;
        self.use_chain(head, HEADER_SIZE as u32)?;
        Ok(true)
    }

    /// The driver's next buffers, `chains` at most, with room for up to `limit` bytes of data. None if the driver has none
    /// available. Before anything else it is used by [`Queues::send_data`], or not, by [`Queues::give_room_back`].
    pub fn room(&mut self, chains: u16, limit: u32) -> Result<Option<&Buffers<'m>>, QueueError> {
        let batch = &mut self.batch;
        batch.count = 0;
        batch.data.clear();
        let mut left = limit;
        // Chains that are of no use are given back at once, but no more of them than the queue holds.
        let mut useless = self.queues[usize::from(RECEIVE)].size();
        while batch.count < usize::from(chains.min(BATCH)) && batch.data.iovecs().len() < BATCH_PIECES {
            let queue = &mut self.queues[usize::from(RECEIVE)];
            let Some(head) = queue.take()? else { break };
            if batch.places.len() == batch.count {
                batch.places.push(Place::default());
            }
            let place = &mut batch.places[batch.count];
            let is_usable = place.fill(&mut self.memory, queue, head, left, &mut batch.data)?;
            if is_usable && (limit == 0 || place.room > 0) {
                left -= place.room;
                batch.count += 1;
                if left == 0 {
                    break;
                }
            } else if batch.count > 0 || useless == 0 {
                queue.give_back(1);
                break;
            } else {
                useless -= 1;
                queue.add_used(head, 0)?;
                self.used[usize::from(RECEIVE)] = true;
            }
        }
        Ok((batch.count > 0).then_some(&batch.data))
    }

    /// Sends the first `count` bytes of data that were written to the room, each chain with a header. Gives back the chains
    /// that are not needed. Returns whether all of the room was used.
    pub fn send_data(&mut self, count: u32, mut header: Header) -> Result<bool, QueueError> {
        let (mut left, mut used) = (count, 0);
        while left > 0 && used < self.batch.count {
            let place = &self.batch.places[used];
            header.length = left.min(place.room);
            place.header.copy_from(&header.to_bytes());
            let head = place.head;
            left -= header.length;
            used += 1;
            self.use_chain(head, HEADER_SIZE as u32 + header.length)?;
        }
        let unused = (self.batch.count - used) as u16;
        self.queue(RECEIVE).give_back(unused);
        Ok(u64::from(count) == self.batch.data.length())
    }

    /// Sends nothing: the driver's buffers are there for the next packet.
    pub fn give_room_back(&mut self) {
        let unused = self.batch.count as u16;
        self.queue(RECEIVE).give_back(unused);
    }

    fn use_chain(&mut self, head: u16, length: u32) -> Result<(), QueueError> {
        self.queue(RECEIVE).add_used(head, length)?;
        self.used[usize::from(RECEIVE)] = true;
        Ok(())
    }

    /// Tells the driver that all connections are lost. Returns whether it had a buffer for that.
    pub fn send_transport_reset(&mut self) -> Result<bool, QueueError> {
        let queue = &mut self.queues[usize::from(EVENT)];
        let Some(head) = queue.take()? else {
            return Ok(false);
        };
        let mut event = Buffers::default();
        chain::walk(
            &mut self.memory,
            queue.table(),
            head,
            queue.size(),
            |memory, descriptor| {
                if descriptor.is_write_only() {
                    // A hole leaves the event out.
                    chain::pieces(memory, descriptor, |slice| event.push(slice));
                }
            },
        )?;
        let written = event.copy_from(&EVENT_TRANSPORT_RESET.to_le_bytes());
        queue.add_used(head, written as u32)?;
        self.used[usize::from(EVENT)] = true;
        Ok(true)
    }

    /// Notifies the driver of the chains that were used since the last notification, if there are any and it wants that.
    pub fn notify_used(&mut self) {
        let mut wanted = false;
        for (queue, used) in self.queues.iter_mut().zip(&mut self.used) {
            wanted |= std::mem::take(used) && queue.needs_notification();
        }
        if wanted {
            self.interrupt.notify_used();
        }
    }

    /// Tells the driver that it need not notify the device of packets.
    pub fn ignore_packets(&mut self) {
        self.queue(TRANSMIT).ignore_notifications();
    }

    /// Tells the driver to notify the device of what becomes available in the queue. Returns whether something became
    /// available before the driver could know that.
    pub fn want_notifications(&mut self, queue: u16) -> bool {
        self.queue(queue).want_notifications()
    }

    /// Tells the driver that it need not notify the device of buffers.
    pub fn ignore_buffers(&mut self) {
        self.queue(RECEIVE).ignore_notifications();
    }
}

impl<'m> Place<'m> {
    /// Takes over the chain at `head`. Adds its room for data, no more than `limit`, to `data`. Returns whether a header fits.
    fn fill(
        &mut self,
        memory: &mut RecentMemory<'m>,
        queue: &SplitQueue<'m>,
        head: u16,
        limit: u32,
        data: &mut Buffers<'m>,
    ) -> Result<bool, QueueError> {
        self.head = head;
        self.header.clear();
        let (mut header_left, mut room) = (HEADER_SIZE, limit as usize);
        let mut is_whole = true;
        let header = &mut self.header;
        let before = data.length();
        let mut push = |slice: VolatileSlice<'m>| {
            let of_header = slice.len().min(header_left);
            header_left -= of_header;
            let of_data = (slice.len() - of_header).min(room);
            room -= of_data;
            // Both are within the slice.
            if let (Ok(first), Ok(rest)) = (slice.subslice(0, of_header), slice.subslice(of_header, of_data))
            {
                header.push(first);
                data.push(rest);
            }
        };
        chain::walk(memory, queue.table(), head, queue.size(), |memory, descriptor| {
            // What follows a hole is not used, because the driver could not know where it begins.
            if descriptor.is_write_only() && is_whole {
                is_whole = chain::pieces(memory, descriptor, &mut push);
            }
        })?;
        self.room = (data.length() - before) as u32;
        Ok(header_left == 0)
    }
}
