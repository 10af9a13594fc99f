//! Whether devices can wake a vCPU whose interrupts are off. They can if the guest has set an interrupt controller up to send
//! NMIs, SMIs or INITs: the flag that turns interrupts off does not stop those.

use std::array;

use kvm_ioctls::{VcpuFd, VmFd};

use super::io_apic::{self, MASKED};
use super::{Error, refused};

/// Offset of the local APIC's register for its pin LINT0, to which KVM connects the PIT (Intel SDM volume 3, table 11-1).
const LVT_LINT0: usize = 0x350;
/// Fields of that register, and of a redirection entry of the IO-APIC (Intel SDM volume 3, figure 11-8, and 82093AA data
/// sheet, section 3.2.4).
const DELIVERY_MODE_SHIFT: u32 = 8;
const DELIVERY_MODE: u64 = 7;
const SMI: u64 = 2;
const NMI: u64 = 4;
const INIT: u64 = 5;

/// Whether a device's interrupt can reach this vCPU although its interrupts are off.
pub fn may_come(vm: &VmFd, vcpu: &VcpuFd) -> Result<bool, Error> {
    let local = vcpu.get_lapic().map_err(refused("tell a local APIC's state"))?;
    let lint0 = array::from_fn(|byte| local.regs[LVT_LINT0 + byte] as u8);
    let lint0 = u32::from_le_bytes(lint0);
    Ok(passes(lint0.into()) || io_apic::entries(vm)?.into_iter().any(passes))
}

fn passes(entry: u64) -> bool {
    entry & MASKED == 0 && matches!(entry >> DELIVERY_MODE_SHIFT & DELIVERY_MODE, SMI | NMI | INIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nmi_passes_unless_it_is_masked_and_ordinary_interrupts_never_do() {
        assert!(passes(0x4ff) && passes(0x534) && passes(0x200));
        for entry in [0x34, 0x134, 0x734, 0x104ff] {
            assert!(!passes(entry), "{entry:#x}");
        }
    }
}
