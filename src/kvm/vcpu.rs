//! A vCPU and its exits.

use std::io;
use std::slice;

use kvm_bindings::{
    CpuId, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, Msrs, kvm_msr_entry, kvm_regs, kvm_run, kvm_sregs,
};
use kvm_ioctls::VcpuFd;

use super::{Error, Statistics, refused};

/// Why `KVM_RUN` came back. Data to read is filled in before the vCPU runs again.
#[derive(Debug)]
pub enum Exit<'a> {
    /// `data` holds one or, for string instructions, several accesses of `size` bytes.
    PortRead {
        port: u16,
        size: usize,
        data: &'a mut [u8],
    },
    PortWrite {
        port: u16,
        size: usize,
        data: &'a [u8],
    },
    MmioRead {
        address: u64,
        data: &'a mut [u8],
    },
    MmioWrite {
        address: u64,
        data: &'a [u8],
    },
    /// A signal, or nothing to do yet.
    Interrupted,
    /// Triple fault.
    Shutdown,
    /// `instruction` is empty when KVM did not say which it was.
    InternalError {
        suberror: u32,
        instruction: Vec<u8>,
    },
    FailEntry {
        reason: u64,
    },
    /// Any other `KVM_EXIT_*` number.
    Other {
        reason: u32,
    },
}

/// A vCPU. It runs on the thread that owns it.
pub struct Vcpu {
    fd: VcpuFd,
}

impl Vcpu {
    pub(super) fn new(fd: VcpuFd) -> Self {
        Self { fd }
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

    /// KVM's counters, to be asked for before the vCPU runs. Kernels before 5.14 have none.
    pub fn statistics(&self) -> io::Result<Statistics> {
        Statistics::of(&self.fd)
    }

    /// A pointer to the byte that, once it is not 0, makes `KVM_RUN` return at once: what a signal handler on
    /// this vCPU's thread sets (KVM API, `immediate_exit`). Valid as long as the vCPU.
    pub fn immediate_exit(&mut self) -> *mut u8 {
        &raw mut self.fd.get_kvm_run().immediate_exit
    }

    /// Runs the guest until something needs us.
    pub fn run(&mut self) -> io::Result<Exit<'_>> {
        match self.fd.run() {
            Ok(_) => Ok(exit(self.fd.get_kvm_run())),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                // Once is enough: whoever interrupts for good has left word elsewhere.
                self.fd.set_kvm_immediate_exit(0);
                Ok(Exit::Interrupted)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Decodes the shared page after `KVM_RUN` returned. The crate's own decoding drops the size of one access of a
/// string instruction and everything about an internal error.
fn exit(run: &mut kvm_run) -> Exit<'_> {
    let page = (run as *mut kvm_run).cast::<u8>();
    match run.exit_reason {
        KVM_EXIT_IO => {
            // SAFETY: KVM fills this member of the union for this exit reason.
            let io = unsafe { run.__bindgen_anon_1.io };
            let length = io.count as usize * usize::from(io.size);
            // SAFETY: KVM places count * size bytes at data_offset, inside the mapping that begins with kvm_run,
            // and leaves them alone until the next KVM_RUN, which needs the vCPU that the result borrows.
            let data = unsafe { slice::from_raw_parts_mut(page.add(io.data_offset as usize), length) };
            let (port, size) = (io.port, usize::from(io.size).max(1));
            match u32::from(io.direction) {
                KVM_EXIT_IO_OUT => Exit::PortWrite { port, size, data },
                _ => Exit::PortRead { port, size, data },
            }
        }
        KVM_EXIT_MMIO => {
            // SAFETY: KVM fills this member of the union for this exit reason.
            let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
            let address = mmio.phys_addr;
            let length = (mmio.len as usize).min(mmio.data.len());
            let data = &mut mmio.data[..length];
            match mmio.is_write {
                0 => Exit::MmioRead { address, data },
                _ => Exit::MmioWrite { address, data },
            }
        }
        KVM_EXIT_SHUTDOWN => Exit::Shutdown,
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: KVM fills this member of the union for this exit reason.
            let failure = unsafe { run.__bindgen_anon_1.fail_entry };
            Exit::FailEntry {
                reason: failure.hardware_entry_failure_reason,
            }
        }
        KVM_EXIT_INTERNAL_ERROR => internal_error(run),
        reason => Exit::Other { reason },
    }
}

/// KVM API, `KVM_EXIT_INTERNAL_ERROR`: an emulation failure tells the instruction when its flag says so.
fn internal_error(run: &kvm_run) -> Exit<'static> {
    const INSTRUCTION_BYTES: u64 = 1;
    // SAFETY: KVM fills this member of the union for this exit reason; emulation_failure begins with the same
    // suberror and is plain numbers.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    let mut instruction = Vec::new();
    if failure.suberror == kvm_bindings::KVM_INTERNAL_ERROR_EMULATION
        && failure.ndata >= 1
        && failure.flags & INSTRUCTION_BYTES != 0
    {
        // SAFETY: the flag says that this member is the one in use.
        let told = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        let length = usize::from(told.insn_size).min(told.insn_bytes.len());
        instruction = told.insn_bytes[..length].to_vec();
    }
    Exit::InternalError {
        suberror: failure.suberror,
        instruction,
    }
}
