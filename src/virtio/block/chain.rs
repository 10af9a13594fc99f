//! A descriptor chain as two byte streams (virtio 1.2 section 2.7.4: where one descriptor ends and the next
//! begins means nothing).

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// Consecutive bytes of guest memory, in pieces none of which is empty.
pub type Buffers<'m> = Vec<VolatileSlice<'m>>;

/// The buffers of one request.
pub struct Chain<'m> {
    pub readable: Buffers<'m>,
    /// Without the status byte.
    pub writable: Buffers<'m>,
    /// The last writable byte.
    pub status: VolatileSlice<'m>,
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
    pub fn read(
        memory: &'m GuestMemoryMmap,
        descriptors: DescriptorChain<&'m GuestMemoryMmap>,
        limit: u16,
    ) -> Result<Self, ChainError> {
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        let (mut ended, mut has_holes, mut hole_at_end) = (false, false, false);
        for descriptor in descriptors.take(limit.into()) {
            ended = !descriptor.has_next();
            let stream = if descriptor.is_write_only() {
                &mut writable
            } else {
                &mut readable
            };
            let length = descriptor.len() as usize;
            let inside = GuestMemory::get_slices(memory, descriptor.addr(), length, Permissions::ReadWrite)
                .and_then(|mut slices| slices.try_for_each(|slice| slice.map(|slice| stream.push(slice))));
            has_holes |= inside.is_err();
            if descriptor.is_write_only() && length > 0 {
                hole_at_end = inside.is_err();
            }
        }
        if !ended {
            return Err(ChainError::Endless);
        }
        let status = match hole_at_end {
            true => None,
            false => split_last_byte(&mut writable),
        };
        Ok(Self {
            readable,
            writable,
            status: status.ok_or(ChainError::NoStatus)?,
            has_holes,
        })
    }

    pub fn set_status(&self, status: u8) {
        self.status.copy_from(&[status]);
    }
}

fn split_last_byte<'m>(buffers: &mut Buffers<'m>) -> Option<VolatileSlice<'m>> {
    let last = buffers.pop()?;
    let (rest, byte) = last.split_at(last.len().checked_sub(1)?).ok()?;
    if !rest.is_empty() {
        buffers.push(rest);
    }
    Some(byte)
}

pub fn length(buffers: &Buffers) -> u64 {
    buffers.iter().map(|buffer| buffer.len() as u64).sum()
}

/// Takes the first `N` bytes off `buffers`; nothing when there are fewer.
pub fn take<const N: usize>(buffers: &mut Buffers) -> Option<[u8; N]> {
    let mut taken = [0; N];
    let (mut filled, mut whole) = (0, 0);
    while filled < N {
        let buffer = buffers.get_mut(whole)?;
        let count = buffer.copy_to(&mut taken[filled..]);
        filled += count;
        if count == buffer.len() {
            whole += 1;
        } else {
            *buffer = buffer.offset(count).ok()?;
        }
    }
    buffers.drain(..whole);
    Some(taken)
}

/// Copies as much of `bytes` as fits, and says how much that is.
pub fn put(buffers: &Buffers, mut bytes: &[u8]) -> u64 {
    let before = bytes.len();
    for buffer in buffers {
        let count = buffer.write(bytes, 0).unwrap_or(0);
        bytes = &bytes[count..];
    }
    (before - bytes.len()) as u64
}
