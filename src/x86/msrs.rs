//! Model-specific registers that a guest expects set before its first instruction.

use crate::kvm::Msr;

const IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// All memory is write-back, string instructions are fast; everything else is as after a reset.
pub fn boot_msrs() -> [Msr; 2] {
    let msr = |index, data| Msr {
        index,
        data,
        ..Default::default()
    };
    [
        msr(IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        msr(IA32_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
    ]
}
