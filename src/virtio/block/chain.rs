//! A descriptor chain as two byte streams. Where one descriptor ends and the next begins has no meaning (virtio 1.2 section
//! 2.7.4).

use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemory, Permissions, VolatileSlice};

use super::buffers::Buffers;
use crate::virtio::recent_memory::RecentMemory;
use crate::virtio::split_queue::Table;

/// The buffers of one request. When it is filled again, it uses the memory that it has already allocated.
#[derive(Default)]
pub struct Chain<'m> {
    head: u16,
    pub readable: Buffers<'m>,
    /// The writable buffers without the status byte.
    pub writable: Buffers<'m>,
    /// How many writable bytes the driver gave, without the status byte.
    room: u64,
    /// The status byte, which is the last writable byte.
    status: Option<VolatileSlice<'m>>,
    /// Whether a descriptor reaches out of guest memory, so that the streams have holes.
    pub has_holes: bool,
}

/// A chain has no end or no status byte, so the driver cannot be told the result of its request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("a descriptor chain loops, is longer than its queue, or leaves its table")]
    Endless,
    #[error("a descriptor chain has no byte that the status can be written to")]
    NoStatus,
}

impl<'m> Chain<'m> {
    /// Reads the chain that begins at `head` of a queue's `table`. A chain has at most as many descriptors as the queue, which
    /// has `size` (section 2.7.5.3.1).
    #[inline]
    pub fn fill(
        &mut self,
        memory: &mut RecentMemory<'m>,
        mut table: Table<'m>,
        head: u16,
        size: u16,
    ) -> Result<(), ChainError> {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        self.has_holes = false;
        let (mut index, mut left, mut length) = (head, size, 0);
        let (mut is_indirect, mut hole_at_end) = (false, false);
        loop {
            let descriptor = table.get(index).ok_or(ChainError::Endless)?;
            if descriptor.refers_to_indirect_table() {
                if is_indirect {
                    return Err(ChainError::Endless);
                }
                is_indirect = true;
                index = 0;
                table = Table::new(memory, descriptor.addr(), descriptor.len() as usize)
                    .ok_or(ChainError::Endless)?;
                continue;
            }
            // Section 2.7.5.2: a chain is no longer than 4 GiB.
            length += u64::from(descriptor.len());
            if left == 0 || length > u64::from(u32::MAX) {
                return Err(ChainError::Endless);
            }
            left -= 1;
            let is_whole = self.push(memory, &descriptor);
            self.has_holes |= !is_whole;
            if descriptor.is_write_only() && descriptor.len() > 0 {
                hole_at_end = !is_whole;
            }
            if !descriptor.has_next() {
                break;
            }
            index = descriptor.next();
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

    /// Adds a descriptor's buffer to its stream. Returns whether all of it is in guest memory.
    #[inline]
    fn push(&mut self, memory: &mut RecentMemory<'m>, descriptor: &Descriptor) -> bool {
        let stream = match descriptor.is_write_only() {
            true => &mut self.writable,
            false => &mut self.readable,
        };
        let (address, length) = (descriptor.addr(), descriptor.len() as usize);
        // Nearly every buffer is in one region.
        if let Some(slice) = memory.get_slice(address, length) {
            stream.push(slice);
            return true;
        }
        GuestMemory::get_slices(memory.all, address, length, Permissions::ReadWrite)
            .and_then(|mut slices| slices.try_for_each(|slice| slice.map(|slice| stream.push(slice))))
            .is_ok()
    }

    /// The index of the chain's first descriptor, by which the used ring names the chain.
    #[inline]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Writes the status. Returns the length for the used ring: how many bytes were written from the start of the writable
    /// buffers without a gap (section 2.7.8.2). `written` bytes of data were written; if they fill the buffers, the status
    /// byte follows them without a gap.
    #[inline]
    pub fn finish(&self, status: u8, written: u64) -> u32 {
        if let Some(byte) = &self.status {
            byte.copy_from(&[status]);
        }
        let status_follows = written == self.room;
        // This cannot overflow: `fill` refuses chains longer than 4 GiB.
        written as u32 + u32::from(status_follows)
    }
}
