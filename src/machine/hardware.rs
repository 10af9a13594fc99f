//! KVM's side of a machine: the VM, its interrupt controllers, its vCPUs.
//!
//! It needs guest memory but nothing in it, so it is made while the kernel is being loaded.

use vm_memory::GuestMemoryMmap;

use crate::kvm::{self, CpuId, Kvm, Vcpu, Vm};
use crate::x86::cpuid::{self, Topology};
use crate::x86::{layout, msrs};

pub struct Hardware {
    /// The one with APIC ID 0 first. Dropped before the VM.
    pub vcpus: Vec<Vcpu>,
    pub vm: Vm,
}

impl Hardware {
    /// Memory first: a memory region that comes after the interrupt controllers costs milliseconds.
    ///
    /// # Safety
    /// `memory` must stay mapped as long as the VM or one of its vCPUs exists.
    pub unsafe fn create(kvm: &Kvm, vm: Vm, memory: &GuestMemoryMmap, cpus: u8) -> Result<Self, kvm::Error> {
        // SAFETY: this function's contract is the same.
        unsafe { vm.set_memory(memory) }?;
        vm.create_interrupt_controllers(layout::KVM_TSS, layout::KVM_IDENTITY_MAP)?;
        log::debug!("interrupt controllers created");
        let vcpus = create_vcpus(kvm, &vm, cpus)?;
        log::debug!("{cpus} vCPUs created");
        Ok(Self { vcpus, vm })
    }
}

fn create_vcpus(kvm: &Kvm, vm: &Vm, cpus: u8) -> Result<Vec<Vcpu>, kvm::Error> {
    let supported = kvm.supported_cpuid()?;
    let tsc_deadline_timer = kvm.has_tsc_deadline_timer();
    let create = |cpu| {
        let vcpu = vm.create_vcpu(cpu)?;
        let mut cpuid: CpuId = supported.clone();
        cpuid::set_topology(
            &mut cpuid,
            Topology {
                cpu,
                cpus,
                tsc_deadline_timer,
            },
        );
        vcpu.set_cpuid(&cpuid)?;
        vcpu.set_msrs(&msrs::boot_msrs())?;
        Ok(vcpu)
    };
    (0..cpus).map(create).collect()
}
