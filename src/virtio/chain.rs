//! Descriptor chains in guest memory (virtio 1.2 section 2.7.5).

use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemory, Permissions, VolatileSlice};

use super::recent_memory::RecentMemory;
use super::split_queue::Table;

/// A chain that a driver must not make.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a descriptor chain loops, is longer than its queue, or leaves its table")]
pub struct Endless;

/// Calls `visit` for each descriptor with a buffer of the chain that begins at `head` of a queue's `table`. A chain has at most
/// as many descriptors as the queue, which has `size` (section 2.7.5.3.1).
#[inline]
pub fn walk<'m>(
    memory: &mut RecentMemory<'m>,
    mut table: Table<'m>,
    head: u16,
    size: u16,
    mut visit: impl FnMut(&mut RecentMemory<'m>, &Descriptor),
) -> Result<(), Endless> {
    let (mut index, mut left, mut length) = (head, size, 0);
    let mut is_indirect = false;
    loop {
        let descriptor = table.get(index).ok_or(Endless)?;
        if descriptor.refers_to_indirect_table() {
            if is_indirect {
                return Err(Endless);
            }
            is_indirect = true;
            index = 0;
            table = Table::new(memory, descriptor.addr(), descriptor.len() as usize).ok_or(Endless)?;
            continue;
        }
        // Section 2.7.5.2: a chain is no longer than 4 GiB.
        length += u64::from(descriptor.len());
        if left == 0 || length > u64::from(u32::MAX) {
            return Err(Endless);
        }
        left -= 1;
        visit(memory, &descriptor);
        if !descriptor.has_next() {
            return Ok(());
        }
        index = descriptor.next();
    }
}

/// Calls `push` for each piece of a descriptor's buffer. Returns whether all of the buffer is in guest memory.
#[inline]
pub fn pieces<'m>(
    memory: &mut RecentMemory<'m>,
    descriptor: &Descriptor,
    mut push: impl FnMut(VolatileSlice<'m>),
) -> bool {
    let (address, length) = (descriptor.addr(), descriptor.len() as usize);
    // Nearly every buffer is in one region.
    if let Some(slice) = memory.get_slice(address, length) {
        push(slice);
        return true;
    }
    GuestMemory::get_slices(memory.all, address, length, Permissions::ReadWrite)
        .and_then(|mut slices| slices.try_for_each(|slice| slice.map(&mut push)))
        .is_ok()
}
