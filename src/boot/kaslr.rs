//! Moves a kernel to another virtual address, as its decompressor does when it unpacks itself: kernel address space layout
//! randomisation, KASLR (Linux arch/x86/boot/compressed/kaslr.c and misc.c, `handle_relocations`).
//!
//! The payload of a kernel that was built for it (CONFIG_RANDOMIZE_BASE) has a table behind the ELF file: where in the kernel
//! there are virtual addresses of its own. Only these change. Where the kernel is in guest memory stays, and it finds that out.

use linux_loader::bootparam::setup_header;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{
    ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory, VolatileRef, VolatileSlice,
};

use super::error::Problem;
use super::image::Source;
use super::{Protocol, elf};

/// Bytes of the largest table that is read: four million places, of which Debian's kernels have a fifth of a million.
const TABLE_MAX: u64 = 16 << 20;
/// The lower half of `__START_KERNEL_map`, the virtual address of physical address 0 before a kernel is moved.
const KERNEL_MAP: u32 = 0x8000_0000;
/// `KERNEL_IMAGE_SIZE`: from there on a kernel's own page tables cover so much.
const KERNEL_IMAGE_SIZE: u64 = 1 << 30;
/// Of `loadflags`: tells the kernel that it was moved, so that it randomises the places of its other memory, too.
pub(super) const KASLR_FLAG: u8 = 1 << 1;
/// The kernel maps itself by pages of this size.
const ALIGNMENT_MIN: u64 = 2 << 20;

/// Where addresses are, as the lower halves of virtual addresses.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    words: Vec<u32>,
    /// Where the lists of addresses in 32 bits begin: of those that shrink, and of those that grow.
    shrinking: usize,
    growing: usize,
}

impl Table {
    /// Reads what is behind the ELF file. None if that is no table.
    ///
    /// Each list begins with a zero: addresses in 64 bits; before Linux 6.15 distances from variables of a processor, which
    /// shrink; addresses in 32 bits.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks();
        let words: Vec<_> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let zeroes = || words.iter().enumerate().filter(|(_, word)| **word == 0);
        let mut places = zeroes().map(|(place, _)| place);
        let (first, second, third) = (places.next()?, places.next()?, places.next());
        let growing = third.unwrap_or(second);
        let has_both = second > 1 && growing + 1 < words.len();
        let is_table = rest.is_empty() && first == 0 && has_both && zeroes().count() <= 3;
        is_table.then_some(Self {
            shrinking: second,
            growing,
            words,
        })
    }
}

/// Moves the kernel that was `loaded` from `source` by a distance that `random` decides, if it was built for it, and returns that
/// distance; none if it was not. What `loaded` and `header` say of it is changed.
pub(super) fn randomise(
    random: u64,
    source: &mut impl Source,
    memory: &GuestMemoryMmap,
    loaded: &mut elf::Loaded,
    header: &mut setup_header,
) -> Result<Option<u64>, Problem> {
    let size = source.length()?.saturating_sub(loaded.file_end);
    // By its PVH entry a kernel would not learn that it was moved, and does not randomise what else it can.
    let (1..=TABLE_MAX, Some(entry)) = (size, loaded.linux64_entry) else {
        return Ok(None);
    };
    let mut table = vec![0; size as usize];
    source.read(loaded.file_end, &mut table)?;
    let (Some(table), Some(distance)) = (Table::parse(&table), distance(random, header, loaded)) else {
        return Ok(None);
    };
    relocate(memory, loaded, &table, distance)?;
    if loaded.protocol == Protocol::Pvh {
        // PVH has no such flags: without `ro` and `rw` on its command line the kernel mounts its root writable.
        header.root_flags = 0;
    }
    loaded.protocol = Protocol::Linux64;
    loaded.entry = entry;
    header.loadflags |= KASLR_FLAG;
    Ok(Some(distance))
}

/// How far a kernel is moved, by a random number. `loaded` is where it is in guest memory.
fn distance(random: u64, header: &setup_header, loaded: &elf::Loaded) -> Option<u64> {
    let alignment = u64::from(header.kernel_alignment);
    if !alignment.is_power_of_two() || alignment < ALIGNMENT_MIN {
        return None;
    }
    let size = (loaded.end.0 - loaded.start.0).max(header.init_size.into());
    let room = KERNEL_IMAGE_SIZE.checked_sub(loaded.start.0.checked_add(size)?)?;
    Some(random % (room / alignment + 1) * alignment)
}

/// Adds `distance` to all addresses of the kernel that is in guest memory as `loaded` says.
fn relocate(
    memory: &GuestMemoryMmap,
    loaded: &elf::Loaded,
    table: &Table,
    distance: u64,
) -> Result<(), Problem> {
    let size = loaded.end.0 - loaded.start.0;
    let kernel = memory
        .get_slice(loaded.start, size as usize)
        .map_err(Problem::GuestMemory)?;
    let (wide, rest) = table.words.split_at(table.shrinking);
    let (shrinking, growing) = rest.split_at(table.growing - table.shrinking);
    // The zeroes at their starts.
    for &address in wide.iter().skip(1) {
        let word = word::<u64, _>(&kernel, loaded.start, address)?;
        word.store(word.load().wrapping_add(distance));
    }
    for &address in shrinking.iter().skip(1) {
        let word = word::<u32, _>(&kernel, loaded.start, address)?;
        word.store(word.load().wrapping_sub(distance as u32));
    }
    for &address in growing.iter().skip(1) {
        let word = word::<u32, _>(&kernel, loaded.start, address)?;
        word.store(word.load().wrapping_add(distance as u32));
    }
    Ok(())
}

/// The word at a virtual address of the kernel, which begins at `start` in guest memory.
fn word<'a, T: ByteValued, B: BitmapSlice>(
    kernel: &'a VolatileSlice<B>,
    start: GuestAddress,
    address: u32,
) -> Result<VolatileRef<'a, T, B>, Problem> {
    let offset = address
        .checked_sub(KERNEL_MAP)
        .and_then(|physical| u64::from(physical).checked_sub(start.0));
    offset
        .and_then(|offset| kernel.get_ref(offset as usize).ok())
        .ok_or_else(|| {
            Problem::Corrupt(format!(
                "its table of addresses for KASLR names 0xffffffff{address:08x}, which is outside of the kernel"
            ))
        })
}

#[cfg(test)]
#[path = "kaslr_test.rs"]
mod tests;
