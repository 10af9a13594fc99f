//! KVM's side of a machine: the VM, its interrupt controllers, its vCPUs.
//!
//! It needs guest memory, but nothing that is in it, so it is made while another thread loads the kernel.

use vm_memory::GuestMemoryMmap;

use super::Error;
use crate::config::{Cpu, CpuFeature};
use crate::kvm::{self, CpuId, Kvm, Vcpu, Vm};
use crate::timeline::{Phase, Timeline};
use crate::x86::cpuid::{self, Topology};
use crate::x86::{layout, msrs};

pub struct Hardware {
    /// In the order of their APIC IDs, from 0. Declared before the VM, so dropped before it.
    pub vcpus: Vec<Vcpu>,
    pub vm: Vm,
}

impl Hardware {
    /// Creates the VM and its parts. Memory is registered before the interrupt controllers are created, because registering it
    /// afterwards takes milliseconds.
    ///
    /// `timer` says whether the VM has a PIT. Kernels that use KVM's clock do not need one.
    ///
    /// # Safety
    /// `memory` must stay mapped as long as the VM or one of its vCPUs exists.
    pub unsafe fn create(
        kvm: &Kvm,
        memory: &GuestMemoryMmap,
        cpus: u8,
        cpu: Cpu,
        timer: bool,
        timeline: &Timeline,
    ) -> Result<Self, kvm::Error> {
        let vm = kvm.create_vm()?;
        if !cpu.has(CpuFeature::Pmu) {
            vm.remove_performance_counters();
        }
        timeline.mark(Phase::VmCreated);
        // SAFETY: the caller promises the same for this function.
        unsafe { vm.set_memory(memory) }?;
        timeline.mark(Phase::MemoryRegistered);
        vm.create_interrupt_controllers(layout::KVM_TSS, layout::KVM_IDENTITY_MAP)?;
        if timer {
            vm.create_timer()?;
        }
        timeline.mark(Phase::InterruptControllersCreated);
        let vcpus = (0..cpus)
            .map(|cpu| vm.create_vcpu(cpu))
            .collect::<Result<_, _>>()?;
        timeline.mark(Phase::VcpusCreated);
        Ok(Self { vcpus, vm })
    }
}

/// What a guest's processors can do: what the host's processor and KVM offer, and the person allows.
pub struct Processor {
    cpu: Cpu,
    shown: CpuId,
    tsc_deadline_timer: bool,
}

impl Processor {
    pub fn ask(kvm: &Kvm, cpu: Cpu) -> Result<Self, Error> {
        Ok(Self {
            cpu,
            shown: cpuid::shown(&kvm.supported_cpuid()?, cpu)?,
            tsc_deadline_timer: kvm.has_tsc_deadline_timer(),
        })
    }

    /// Makes the vCPUs processors of one package, in the state in which a kernel is entered.
    pub fn set_up(&self, vcpus: &[Vcpu]) -> Result<(), kvm::Error> {
        let cpus = vcpus.len() as u8;
        for (cpu, vcpu) in (0..).zip(vcpus) {
            let mut cpuid = self.shown.clone();
            let topology = Topology {
                cpu,
                cpus,
                tsc_deadline_timer: self.tsc_deadline_timer,
            };
            cpuid::set_topology(&mut cpuid, topology);
            vcpu.set_cpuid(&cpuid)?;
            vcpu.set_msrs(&msrs::boot_msrs(self.cpu))?;
        }
        Ok(())
    }
}
