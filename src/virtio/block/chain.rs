//! A descriptor chain as two byte streams. Where one descriptor ends and the next begins has no meaning (virtio 1.2 section
//! 2.7.4).

use vm_memory::VolatileSlice;

use crate::virtio::buffers::Buffers;
use crate::virtio::chain;
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
    #[error(transparent)]
    Endless(#[from] chain::Endless),
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
        table: Table<'m>,
        head: u16,
        size: u16,
    ) -> Result<(), ChainError> {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        self.has_holes = false;
        let mut hole_at_end = false;
        let Self {
            readable,
            writable,
            has_holes,
            ..
        } = self;
        chain::walk(memory, table, head, size, |memory, descriptor| {
            let stream = match descriptor.is_write_only() {
                true => &mut *writable,
                false => &mut *readable,
            };
            let is_whole = chain::pieces(memory, descriptor, |slice| stream.push(slice));
            *has_holes |= !is_whole;
            if descriptor.is_write_only() && descriptor.len() > 0 {
                hole_at_end = !is_whole;
            }
        })?;
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
