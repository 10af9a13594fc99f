//! A split virtqueue as its device works through it (virtio 1.2 section 2.7).
//!
//! The addresses of its three parts are looked up once, so that each access is one load or store.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use virtio_bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};
use virtio_queue::Queue;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestAddress, GuestMemoryMmap, VolatileMemory, VolatileSlice};

use super::recent_memory::RecentMemory;

/// Offsets in both rings: flags, index, and the first element.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const RING: usize = 4;

/// `struct virtq_used_elem`: a chain's head and the bytes written to it.
type UsedElement = [u32; 2];

/// A mistake of the driver after which the device needs a reset (section 2.1.2).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a part of the queue is not in one region of guest memory")]
    Place,
    #[error("more is available than the queue has descriptors")]
    Overfull,
}

/// A queue that the driver made ready.
pub struct SplitQueue<'m> {
    size: u16,
    event_idx: bool,
    table: Table<'m>,
    available: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
    next_available: u16,
    /// The index of the available ring when it was last read.
    seen: u16,
    next_used: u16,
    /// The index of the used ring when [`SplitQueue::needs_notification`] was last called.
    announced: u16,
}

impl<'m> SplitQueue<'m> {
    /// A queue that the transport has checked, with its parts in `memory`.
    pub fn new(memory: &'m GuestMemoryMmap, queue: &Queue) -> Result<Self, Error> {
        let state = queue.state();
        let size = usize::from(state.size);
        let mut memory = RecentMemory::new(memory);
        let mut part = |address, length| {
            let slice = memory.get_slice(GuestAddress(address), length);
            slice.ok_or(Error::Place)
        };
        Ok(Self {
            size: state.size,
            event_idx: state.event_idx_enabled,
            table: Table(part(state.desc_table, size * size_of::<Descriptor>())?),
            // Each ring is followed by 2 bytes for the event index of the other side.
            available: part(state.avail_ring, RING + size_of::<u16>() * (size + 1))?,
            used: part(
                state.used_ring,
                RING + size_of::<UsedElement>() * size + size_of::<u16>(),
            )?,
            next_available: state.next_avail,
            seen: state.next_avail,
            next_used: state.next_used,
            announced: state.next_used,
        })
    }

    /// The indices in the available and the used ring that come next.
    pub fn next(&self) -> (u16, u16) {
        (self.next_available, self.next_used)
    }

    /// How many chains the queue can hold.
    #[inline]
    pub fn size(&self) -> u16 {
        self.size
    }

    #[inline]
    pub fn table(&self) -> Table<'m> {
        self.table
    }

    /// Takes the head of the next available chain, if there is one.
    #[inline]
    pub fn take(&mut self) -> Result<Option<u16>, Error> {
        if self.next_available == self.seen {
            // Acquire: what the driver wrote before it changed the index is visible from here.
            self.seen = self.available.load(INDEX, Ordering::Acquire);
            if self.seen.wrapping_sub(self.next_available) > self.size {
                return Err(Error::Overfull);
            }
            if self.next_available == self.seen {
                return Ok(None);
            }
        }
        let slot = usize::from(self.next_available % self.size);
        let head = self
            .available
            .load(RING + size_of::<u16>() * slot, Ordering::Relaxed);
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(head))
    }

    /// Gives the last `count` chains that were taken back, so that they are taken again. None of them may have been used.
    #[inline]
    pub fn give_back(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_sub(count);
    }

    /// Puts a chain into the used ring; `length` is how many bytes were written to its buffers.
    #[inline]
    pub fn add_used(&mut self, head: u16, length: u32) -> Result<(), Error> {
        let slot = usize::from(self.next_used % self.size);
        let element = self
            .used
            .get_ref::<UsedElement>(RING + size_of::<UsedElement>() * slot)
            .map_err(|_| Error::Place)?;
        element.store([u32::from(head).to_le(), length.to_le()]);
        self.next_used = self.next_used.wrapping_add(1);
        // Release: the driver sees the buffers and the element when it sees the new index.
        self.used.store(INDEX, self.next_used, Ordering::Release);
        Ok(())
    }

    /// Whether the driver wants a notification of the chains that were used since the last call of this function (section
    /// 2.7.7.2).
    pub fn needs_notification(&mut self) -> bool {
        // The driver first writes whether it wants a notification and then reads the index. The device has written the index
        // and now reads the driver's wish. With a fence on each side at least one of them sees what the other wrote.
        fence(Ordering::SeqCst);
        let before = std::mem::replace(&mut self.announced, self.next_used);
        if !self.event_idx {
            let flags: u16 = self.available.load(FLAGS, Ordering::Relaxed);
            return flags & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0;
        }
        let used_event: u16 = self.available.load(
            RING + size_of::<u16>() * usize::from(self.size),
            Ordering::Relaxed,
        );
        self.next_used.wrapping_sub(used_event).wrapping_sub(1) < self.next_used.wrapping_sub(before)
    }

    /// Tells the driver that it need not notify the device of available chains.
    pub fn ignore_notifications(&mut self) {
        // With event indices nothing has to be written: the driver notifies once when it passes the event index, and not
        // again before the device has moved that index.
        if !self.event_idx {
            self.used
                .store(FLAGS, VRING_USED_F_NO_NOTIFY as u16, Ordering::Relaxed);
        }
    }

    /// Tells the driver to notify the device of available chains. Returns whether chains became available before the driver
    /// could know that: the device has to take those without a notification.
    pub fn want_notifications(&mut self) -> bool {
        match self.event_idx {
            true => {
                let avail_event = RING + size_of::<UsedElement>() * usize::from(self.size);
                self.used
                    .store(avail_event, self.next_available, Ordering::Relaxed);
            }
            false => self.used.store(FLAGS, 0, Ordering::Relaxed),
        }
        // The driver first writes the available index and then reads whether the device wants a notification: as in
        // `needs_notification`, the fence makes sure that one side sees what the other wrote.
        fence(Ordering::SeqCst);
        let index: u16 = self.available.load(INDEX, Ordering::Relaxed);
        index != self.next_available
    }
}

/// 16-bit fields of the two rings, which the driver reads and writes at the same time. All of them are little-endian, and
/// aligned because the transport has checked the rings' addresses.
trait Fields {
    fn load(&self, offset: usize, order: Ordering) -> u16;
    fn store(&self, offset: usize, value: u16, order: Ordering);
}

impl Fields for VolatileSlice<'_> {
    #[inline]
    fn load(&self, offset: usize, order: Ordering) -> u16 {
        self.get_atomic_ref::<AtomicU16>(offset)
            .map_or(0, |field| u16::from_le(field.load(order)))
    }

    #[inline]
    fn store(&self, offset: usize, value: u16, order: Ordering) {
        if let Ok(field) = self.get_atomic_ref::<AtomicU16>(offset) {
            field.store(value.to_le(), order);
        }
    }
}

/// A table of descriptors in guest memory (section 2.7.5).
#[derive(Clone, Copy)]
pub struct Table<'m>(VolatileSlice<'m>);

impl<'m> Table<'m> {
    /// The table of `length` bytes at `address`, if it is a whole number of descriptors in one region of guest memory.
    pub fn new(memory: &mut RecentMemory<'m>, address: GuestAddress, length: usize) -> Option<Self> {
        let slice = memory.get_slice(address, length)?;
        length
            .is_multiple_of(size_of::<Descriptor>())
            .then_some(Self(slice))
    }

    /// Reads a descriptor, once, because the driver may change it at any time.
    #[inline]
    pub fn get(&self, index: u16) -> Option<Descriptor> {
        let offset = usize::from(index) * size_of::<Descriptor>();
        Some(self.0.get_ref::<Descriptor>(offset).ok()?.load())
    }
}

#[cfg(test)]
#[path = "split_queue_test.rs"]
mod tests;
