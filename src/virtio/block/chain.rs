//! A descriptor chain as two byte streams (virtio 1.2 section 2.7.4: where one descriptor ends and the next
//! begins means nothing).

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use super::buffers::Buffers;

/// The buffers of one request. Filled again and again it does not allocate.
#[derive(Default)]
pub struct Chain<'m> {
    head: u16,
    pub readable: Buffers<'m>,
    /// Without the status byte.
    pub writable: Buffers<'m>,
    /// Bytes that the driver gave for writing, the status byte aside.
    room: u64,
    /// The last writable byte.
    status: Option<VolatileSlice<'m>>,
    /// Some descriptor leaves guest memory, so the streams have holes.
    pub has_holes: bool,
}

/// A chain without an end or without a status byte: nobody could be told what came of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("a descriptor chain loops, is longer than its queue, or leaves its table")]
    Endless,
    #[error("a descriptor chain has no byte that the status can be written to")]
    NoStatus,
}

impl<'m> Chain<'m> {
    /// Reads at most `limit` descriptors, the queue's size (section 2.7.5.3.1).
    pub fn fill(
        &mut self,
        memory: &'m GuestMemoryMmap,
        descriptors: DescriptorChain<&'m GuestMemoryMmap>,
        limit: u16,
    ) -> Result<(), ChainError> {
        self.head = descriptors.head_index();
        self.readable.clear();
        self.writable.clear();
        self.has_holes = false;
        let (mut ended, mut hole_at_end) = (false, false);
        for descriptor in descriptors.take(limit.into()) {
            ended = !descriptor.has_next();
            let stream = if descriptor.is_write_only() {
                &mut self.writable
            } else {
                &mut self.readable
            };
            let length = descriptor.len() as usize;
            let inside = GuestMemory::get_slices(memory, descriptor.addr(), length, Permissions::ReadWrite)
                .and_then(|mut slices| slices.try_for_each(|slice| slice.map(|slice| stream.push(slice))));
            self.has_holes |= inside.is_err();
            if descriptor.is_write_only() && length > 0 {
                hole_at_end = inside.is_err();
            }
        }
        if !ended {
            return Err(ChainError::Endless);
        }
        self.status = match hole_at_end {
            true => None,
            false => self.writable.take_last(),
        };
        self.room = self.writable.length();
        match self.status {
            Some(_) => Ok(()),
            None => Err(ChainError::NoStatus),
        }
    }

    /// The chain's name in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Writes the status. Returns the length for the used ring: the bytes written from the start of the writable
    /// stream, which are `written`, up to the first gap (section 2.7.8.2).
    pub fn finish(&self, status: u8, written: u64) -> u32 {
        if let Some(byte) = &self.status {
            byte.copy_from(&[status]);
        }
        let status_follows = written == self.room;
        // A chain is shorter than 4 GiB (section 2.7.5.2), or it is one without an end.
        written as u32 + u32::from(status_follows)
    }
}
