//! A split virtqueue as its device works through it (virtio 1.2 section 2.7).
//!
//! Its three parts are looked up in guest memory once, so that an access is a load or a store.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use virtio_bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};
use virtio_queue::Queue;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestAddress, GuestMemoryMmap, VolatileMemory, VolatileSlice};

use super::recent_memory::RecentMemory;

/// Both rings begin with their flags and their index.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const RING: usize = 4;

/// `struct virtq_used_elem`: a chain's head and the bytes written to it.
type UsedElement = [u32; 2];

/// What a driver did to its queue that only a reset repairs (section 2.1.2).
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
    /// The available ring's index as it was last read.
    seen: u16,
    next_used: u16,
    /// The used ring's index as of the last decision on a notification.
    announced: u16,
}

impl<'m> SplitQueue<'m> {
    /// What the transport found valid, in `memory`.
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
            // Behind each ring there is room for the other side's event index.
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

    /// The most chains that it can hold.
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
            // What the driver wrote before the index is read after it.
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

    /// Puts a chain into the used ring, with the bytes written to it.
    #[inline]
    pub fn add_used(&mut self, head: u16, length: u32) -> Result<(), Error> {
        let slot = usize::from(self.next_used % self.size);
        let element = self
            .used
            .get_ref::<UsedElement>(RING + size_of::<UsedElement>() * slot)
            .map_err(|_| Error::Place)?;
        element.store([u32::from(head).to_le(), length.to_le()]);
        self.next_used = self.next_used.wrapping_add(1);
        // What is in the chain and in the element is there before the index.
        self.used.store(INDEX, self.next_used, Ordering::Release);
        Ok(())
    }

    /// Whether the driver wants a notification of what was used since the last time that this was asked (section
    /// 2.7.7.2).
    pub fn needs_notification(&mut self) -> bool {
        // The driver writes what it wants and then looks at the index; here it is the other way round.
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

    /// From here the driver need not tell of what it makes available.
    pub fn ignore_notifications(&mut self) {
        // With event indices it tells once, and then of nothing until it is asked again.
        if !self.event_idx {
            self.used
                .store(FLAGS, VRING_USED_F_NO_NOTIFY as u16, Ordering::Relaxed);
        }
    }

    /// From here the driver tells of what it makes available. Says whether it made something available before that.
    pub fn want_notifications(&mut self) -> bool {
        match self.event_idx {
            true => {
                let avail_event = RING + size_of::<UsedElement>() * usize::from(self.size);
                self.used
                    .store(avail_event, self.next_available, Ordering::Relaxed);
            }
            false => self.used.store(FLAGS, 0, Ordering::Relaxed),
        }
        // The driver makes something available and then looks whether that is to be told.
        fence(Ordering::SeqCst);
        let index: u16 = self.available.load(INDEX, Ordering::Relaxed);
        index != self.next_available
    }
}

/// 16-bit fields of the two rings, which the driver reads and writes at the same time. All of them are little-endian and
/// aligned: the transport has seen to that.
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
    /// The table of so many bytes at `address`, if that is whole descriptors in one region of guest memory.
    pub fn new(memory: &mut RecentMemory<'m>, address: GuestAddress, length: usize) -> Option<Self> {
        let slice = memory.get_slice(address, length)?;
        length
            .is_multiple_of(size_of::<Descriptor>())
            .then_some(Self(slice))
    }

    /// The driver may change a descriptor at any time: this reads it once.
    #[inline]
    pub fn get(&self, index: u16) -> Option<Descriptor> {
        let offset = usize::from(index) * size_of::<Descriptor>();
        Some(self.0.get_ref::<Descriptor>(offset).ok()?.load())
    }
}

#[cfg(test)]
#[path = "split_queue_test.rs"]
mod tests;
