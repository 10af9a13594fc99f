//! Where a vCPU was, for an explanation.

use std::ops::Range;

use super::Facts;

/// Where x86-64 Linux has its own code, but for modules (Documentation/arch/x86/x86_64/mm.rst).
const KERNEL_ADDRESSES: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;

pub(super) fn at(instruction_pointer: Option<u64>, facts: &Facts) -> String {
    match instruction_pointer {
        Some(address) => {
            let in_file = address.wrapping_sub(facts.kernel_moved);
            let is_kernels = [address, in_file]
                .iter()
                .all(|one| KERNEL_ADDRESSES.contains(one));
            match facts.kernel_moved > 0 && is_kernels {
                true => format!(" at {address:#x} (KASLR; {in_file:#x} in the kernel's symbols)"),
                false => format!(" at {address:#x}"),
            }
        }
        None => String::new(),
    }
}
