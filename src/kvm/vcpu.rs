//! A vCPU and its exits.

use std::sync::Arc;
use std::{io, mem};

use kvm_bindings::{
    CpuId, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED, KVMIO, Msrs, kvm_msr_entry, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

use super::run_page::RunPage;
pub use super::run_page::{Exit, ImmediateExit};
use super::{Error, Statistics, nmi, refused, with_cause};

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);

/// RFLAGS: maskable interrupts are on.
const RFLAGS_IF: u64 = 1 << 9;

/// What a vCPU does at a moment at which it is not in the guest.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// It waits for what only other vCPUs can do: it never started, or it executes `hlt` with interrupts off, and no device
    /// can send it an NMI.
    pub waits: bool,
    /// It executes `hlt` with interrupts on.
    pub is_idle: bool,
    /// Interrupts are on.
    pub is_interruptible: bool,
    pub registers: kvm_regs,
}

/// A vCPU. The thread that owns it runs it.
pub struct Vcpu {
    fd: VcpuFd,
    vm: Arc<VmFd>,
    page: RunPage,
    /// `KVM_RUN` has returned because another vCPU started this one.
    was_started: bool,
}

impl Vcpu {
    /// The vCPU `fd` of `vm`.
    pub(super) fn new(fd: VcpuFd, vm: Arc<VmFd>) -> io::Result<Self> {
        let page = RunPage::map(&fd, vm.run_size())?;
        Ok(Self {
            fd,
            vm,
            page,
            was_started: false,
        })
    }

    pub fn set_cpuid(&self, cpuid: &CpuId) -> Result<(), Error> {
        self.fd.set_cpuid2(cpuid).map_err(refused("set CPUID leaves"))
    }

    pub fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), Error> {
        let what = "set model-specific registers";
        let msrs = Msrs::from_entries(entries).map_err(|_| Error::Call {
            what,
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        match self.fd.set_msrs(&msrs).map_err(refused(what))? {
            set if set == entries.len() => Ok(()),
            _ => Err(Error::Call {
                what,
                source: io::ErrorKind::Unsupported.into(),
            }),
        }
    }

    pub fn registers(&self) -> Result<kvm_regs, Error> {
        self.fd.get_regs().map_err(refused("tell registers"))
    }

    pub fn set_registers(&self, registers: &kvm_regs) -> Result<(), Error> {
        self.fd.set_regs(registers).map_err(refused("set registers"))
    }

    pub fn special_registers(&self) -> Result<kvm_sregs, Error> {
        self.fd.get_sregs().map_err(refused("tell special registers"))
    }

    pub fn set_special_registers(&self, registers: &kvm_sregs) -> Result<(), Error> {
        self.fd
            .set_sregs(registers)
            .map_err(refused("set special registers"))
    }

    /// The guest address behind a linear address in the vCPU's present mode.
    pub fn translate(&self, linear: u64) -> Option<u64> {
        let translation = self.fd.translate_gva(linear).ok()?;
        (translation.valid != 0).then_some(translation.physical_address)
    }

    /// Where the vCPU is, and whether it waits there.
    pub fn standing(&self) -> Result<Standing, Error> {
        let state = self.fd.get_mp_state();
        let state = state.map_err(refused("tell a vCPU's state"))?.mp_state;
        let registers = self.registers()?;
        let is_interruptible = registers.rflags & RFLAGS_IF != 0;
        let waits = match state {
            KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => true,
            KVM_MP_STATE_HALTED => !is_interruptible && !nmi::may_come(&self.vm, &self.fd)?,
            _ => false,
        };
        Ok(Standing {
            waits,
            is_idle: state == KVM_MP_STATE_HALTED && is_interruptible,
            is_interruptible,
            registers,
        })
    }

    /// KVM's counters. To be called before the vCPU runs. Linux before 5.14 has none.
    pub fn statistics(&self) -> io::Result<Statistics> {
        Statistics::of(&self.fd)
    }

    /// What a signal handler on this vCPU's thread sets to end `KVM_RUN`.
    pub fn immediate_exit(&self) -> ImmediateExit {
        self.page.immediate_exit()
    }

    /// Tells the guest that it was stopped for a while, so that its watchdog does not take the gap in its time for a
    /// processor that hangs (KVM API, `KVM_KVMCLOCK_CTRL`). KVM tells it through the guest's KVM clock; `false` means that the
    /// guest does not use that clock.
    pub fn tell_of_a_stop(&self) -> Result<bool, Error> {
        match self.fd.kvmclock_ctrl() {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == libc::EINVAL => Ok(false),
            Err(error) => Err(refused("tell the guest of a stop")(error)),
        }
    }

    /// Runs the guest until an exit that Coracle must handle.
    pub fn run(&mut self) -> io::Result<Exit<'_>> {
        // SAFETY: the request takes no argument. KVM writes to guest memory, which by the contract of `Vm::set_memory`
        // is mapped, and to the shared page, which is only read and written through raw pointers.
        match unsafe { ioctl(&self.fd, KVM_RUN()) } {
            0 => Ok(self.page.exit()),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EINTR) || self.is_only_started(&error) => {
                    // The flag is for one interruption, of which the caller learns now. A stop or a pause is not lost by
                    // clearing it: machine/orders.rs gives the order before it sends the signal that sets the flag, and the
                    // caller looks at the order before it runs the vCPU again.
                    self.page.immediate_exit().set(false);
                    Ok(Exit::Interrupted)
                }
                error => Err(with_cause(error)),
            },
        }
    }

    /// Whether `error` of `KVM_RUN` means that the vCPU waited to be started, and that this has happened or something else
    /// woke it. A vCPU is started once: after that the same error number means that KVM could not start a thread of its own.
    fn is_only_started(&mut self, error: &io::Error) -> bool {
        if error.raw_os_error() != Some(libc::EAGAIN) {
            return false;
        }
        match self.fd.get_mp_state() {
            Ok(state) if state.mp_state == KVM_MP_STATE_RUNNABLE => {
                !mem::replace(&mut self.was_started, true)
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }
}
