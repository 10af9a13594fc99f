//! The only module that uses KVM. It offers a VM, its vCPUs and their exits.

mod caches;
mod io_apic;
mod nmi;
pub mod probe;
mod run_page;
mod statistics;
mod vcpu;

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, mem};

use io_uring::IoUring;
use kvm_bindings::{
    KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, KVM_PMU_CAP_DISABLE,
    kvm_enable_cap, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

pub use kvm_bindings::{CpuId, kvm_cpuid_entry2 as CpuIdEntry, kvm_msr_entry as Msr, kvm_segment as Segment};
pub use kvm_bindings::{kvm_regs as Registers, kvm_sregs as SpecialRegisters};
#[cfg(fuzzing)]
pub use run_page::decode_exit;
pub use statistics::Statistics;
pub use vcpu::{Exit, ImmediateExit, Standing, Vcpu};

use crate::interrupt::Interrupt;
use crate::threads;

/// The API version of every KVM since Linux 2.6.22.
const API_VERSION: i32 = 12;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open /dev/kvm: {source}")]
    Open { source: io::Error },
    #[error("/dev/kvm answers API version {0}, not {API_VERSION}: this is no KVM that Coracle knows")]
    Version(i32),
    #[error("KVM refused to {what}: {source} (coracle doctor says whether this host can run guests)")]
    Call { what: &'static str, source: io::Error },
}

/// Makes the error of a KVM call that failed.
fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| Error::Call {
        what,
        source: with_cause(error.into()),
    }
}

/// Marks the error of a KVM call that failed because KVM could not start a thread of its own, for which KVM gives EAGAIN.
fn with_cause(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => threads::not_started(error),
        _ => error,
    }
}

/// The host's KVM.
pub struct Kvm(kvm_ioctls::Kvm);

impl Kvm {
    /// Opens /dev/kvm.
    pub fn open() -> Result<Self, Error> {
        let kvm = kvm_ioctls::Kvm::new().map_err(|error| Error::Open { source: error.into() })?;
        match kvm.get_api_version() {
            API_VERSION => Ok(Self(kvm)),
            other => Err(Error::Version(other)),
        }
    }

    /// The CPUID leaves that this KVM can show a guest.
    pub fn supported_cpuid(&self) -> Result<CpuId, Error> {
        let mut cpuid = self
            .0
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("tell its CPUID leaves"))?;
        caches::fill(&mut cpuid);
        Ok(cpuid)
    }

    /// Whether the local APIC's timer can be set to a TSC deadline. The supported CPUID leaves do not say.
    pub fn has_tsc_deadline_timer(&self) -> bool {
        self.0.check_extension(kvm_ioctls::Cap::TscDeadlineTimer)
    }

    /// A VM without memory, interrupt controllers or vCPUs.
    pub fn create_vm(&self) -> Result<Vm, Error> {
        loop {
            match self.0.create_vm() {
                // A signal interrupted the call.
                Err(error) if error.errno() == libc::EINTR => (),
                result => {
                    return result
                        .map(|fd| Vm { fd: Arc::new(fd) })
                        .map_err(refused("create a VM"));
                }
            }
        }
    }
}

/// A VM: guest memory, interrupt controllers, and the interrupts and notifications that are connected to it.
pub struct Vm {
    fd: Arc<VmFd>,
}

impl Vm {
    /// Has the host's kernel take the VM apart on a thread of its own, once this process has ended. It waits for grace periods
    /// then, 25 virtual milliseconds on the deterministic clock, and otherwise this process would wait for these at its end.
    ///
    /// A ring of io_uring keeps the VM's file open, and Linux drops what a ring holds on a thread of its own. Fails where
    /// io_uring is forbidden.
    pub fn outlast_process(&self) -> io::Result<()> {
        let ring: IoUring = IoUring::builder().setup_r_disabled().build(1)?;
        ring.submitter().register_files(&[self.fd.as_raw_fd()])?;
        // The end of the process closes it, after the VM's own descriptor.
        mem::forget(ring);
        Ok(())
    }

    /// Makes `memory` the guest's. To be called before [`Vm::create_interrupt_controllers`]: after it, KVM waits for a grace
    /// period of several milliseconds for each region.
    ///
    /// # Safety
    /// `memory` must stay mapped as long as the VM or one of its vCPUs exists.
    pub unsafe fn set_memory(&self, memory: &GuestMemoryMmap) -> Result<(), Error> {
        for (slot, region) in memory.iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping of that size, and the caller promises that it outlives the VM.
            unsafe { self.fd.set_user_memory_region(region) }.map_err(refused("take guest memory"))?;
        }
        Ok(())
    }

    /// Creates the local APICs, the IO-APIC and the PICs, all inside KVM.
    ///
    /// `tss` and `identity_map` are the guest addresses of three pages and one page that KVM needs for itself
    /// on Intel processors (KVM API, `KVM_SET_TSS_ADDR` and `KVM_SET_IDENTITY_MAP_ADDR`).
    pub fn create_interrupt_controllers(&self, tss: u64, identity_map: u64) -> Result<(), Error> {
        self.fd
            .set_identity_map_address(identity_map)
            .map_err(refused("place its identity map"))?;
        self.fd
            .set_tss_address(tss as usize)
            .map_err(refused("place its TSS"))?;
        self.fd
            .create_irq_chip()
            .map_err(refused("create interrupt controllers"))
    }

    /// Creates the PIT, the timer of PCs, inside KVM.
    pub fn create_timer(&self) -> Result<(), Error> {
        // With this flag KVM also answers port 0x61, the speaker's, which kernels poll while they calibrate timers.
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        self.fd.create_pit2(pit).map_err(refused("create a timer"))
    }

    /// Takes the performance counters away from all vCPUs that are created later. Leaving them out of CPUID is not enough,
    /// because a guest on an AMD processor finds them without CPUID.
    ///
    /// KVM before Linux 5.18 cannot do this. Then a guest can count its own events, which does no harm.
    pub fn remove_performance_counters(&self) {
        let capability = kvm_enable_cap {
            cap: KVM_CAP_PMU_CAPABILITY,
            args: [KVM_PMU_CAP_DISABLE.into(), 0, 0, 0],
            ..Default::default()
        };
        if let Err(error) = self.fd.enable_cap(&capability) {
            log::debug!("this KVM cannot take performance counters away: {error}");
        }
    }

    /// Creates the vCPU whose local APIC has this ID.
    pub fn create_vcpu(&self, id: u8) -> Result<Vcpu, Error> {
        let what = "create a vCPU";
        let fd = self.fd.create_vcpu(id.into()).map_err(refused(what))?;
        Vcpu::new(fd, self.fd.clone()).map_err(|source| Error::Call { what, source })
    }

    /// Whether the guest lets the interrupts of this line of the IO-APIC through. False where that cannot be told.
    pub fn is_line_connected(&self, line: u32) -> bool {
        let entries = io_apic::entries(&self.fd);
        entries.is_ok_and(|entries| {
            entries
                .get(line as usize)
                .is_some_and(|entry| entry & io_apic::MASKED == 0)
        })
    }

    /// An input of the interrupt controllers. Raising it does nothing once the VM is dropped.
    ///
    /// This makes a call for each edge. An irqfd would need none, but for pins of the IO-APIC the host delivers its edges on a
    /// worker thread, and the guest would wait until that thread runs.
    pub fn interrupt(&self, line: u32) -> Interrupt {
        let fd = Mutex::new(Arc::downgrade(&self.fd));
        Interrupt::new(move || {
            // The lock is needed because KVM has one level for the line: if a second thread raised it while it is still high,
            // there would be no second edge.
            let fd = fd.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(fd) = fd.upgrade() {
                fd.set_irq_line(line, true)?;
                fd.set_irq_line(line, false)?;
            }
            Ok(())
        })
    }

    /// From here on a 4-byte write of `value` by the guest to this MMIO address signals `event`, and causes no exit.
    pub fn connect_notification(&self, event: &EventFd, address: u64, value: u32) -> Result<(), Error> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(refused("connect a notification"))
    }
}
