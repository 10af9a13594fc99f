//! Whether the host's processors reach the end of guest memory.

use super::{Error, memory};
use crate::kvm::{CpuId, Kvm};
use crate::x86::layout;

/// Every processor that KVM runs on reaches guest addresses of this many bits.
const BITS_MIN: u32 = 36;
/// The CPUID leaf of address sizes: in EAX the processor's in bits 0 to 7, and what KVM can give a guest in bits 16 to 23,
/// or 0 where that is the same.
const ADDRESS_SIZES: u32 = 0x8000_0008;

#[derive(Debug, thiserror::Error)]
#[error(
        "this host's processors reach {bits}-bit addresses, and a guest with {} GiB of memory needs more, because 1 GiB \
         of its addresses belongs to devices: give it {fits}G or less with --memory",
        memory.div_ceil(1 << 30)
)]
pub struct TooWide {
    /// In bytes.
    memory: u64,
    bits: u32,
    /// In GiB.
    fits: u64,
}

/// Checks that this host's processors reach all addresses of a guest with `memory` bytes. KVM is asked only for guests larger
/// than every processor can reach.
pub fn check(memory: u64, kvm: &Kvm) -> Result<(), Error> {
    match memory::end(memory) <= 1 << BITS_MIN {
        true => Ok(()),
        false => Ok(check_with(memory, &kvm.supported_cpuid()?)?),
    }
}

fn check_with(memory: u64, supported: &CpuId) -> Result<(), TooWide> {
    let bits = bits(supported);
    match memory::end(memory) <= 1 << bits {
        true => Ok(()),
        false => Err(TooWide {
            memory,
            bits,
            fits: ((1 << bits) - (layout::MEMORY_ABOVE_4G - layout::MMIO_HOLE)) >> 30,
        }),
    }
}

/// The width of a guest address on this host.
fn bits(supported: &CpuId) -> u32 {
    let sizes = supported
        .as_slice()
        .iter()
        .find(|leaf| leaf.function == ADDRESS_SIZES);
    let Some(sizes) = sizes else { return BITS_MIN };
    let (processor, guest) = (sizes.eax & 0xff, sizes.eax >> 16 & 0xff);
    let bits = match guest {
        0 => processor,
        guest => guest.min(processor),
    };
    // The architecture has no more than 52 bits.
    bits.clamp(BITS_MIN, 52)
}

#[cfg(test)]
#[path = "address_width_test.rs"]
mod tests;
