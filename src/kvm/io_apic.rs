//! What the guest has made of the IO-APIC (82093AA data sheet).

use kvm_bindings::{KVM_IOAPIC_NUM_PINS, KVM_IRQCHIP_IOAPIC, kvm_irqchip};
use kvm_ioctls::VmFd;

use super::{Error, refused};

/// A redirection entry that delivers nothing (section 3.2.4).
pub const MASKED: u64 = 1 << 16;

/// The redirection entries, one for each line.
pub fn entries(vm: &VmFd) -> Result<[u64; KVM_IOAPIC_NUM_PINS as usize], Error> {
    let mut chip = kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    vm.get_irqchip(&mut chip)
        .map_err(refused("tell the IO-APIC's state"))?;
    // SAFETY: KVM filled in the state of the chip that was asked for, and any bytes are valid for it.
    let entries = unsafe { chip.chip.ioapic.redirtbl };
    // SAFETY: any bytes are valid for both views of an entry.
    Ok(entries.map(|entry| unsafe { entry.bits }))
}
