//! The memory that KVM shares with the owner of a vCPU: `struct kvm_run`, and the data of port accesses behind it.
//!
//! It is mapped a second time, beside the mapping of the crate kvm-ioctls, for two reasons. The crate gives out a reference
//! to the struct, which neither reaches the data behind it nor may exist while a signal handler writes to it. And its
//! decoding drops the size of one access of a string instruction, and everything about an internal error. Here nothing
//! but raw pointers into the whole mapping are used.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_14 as EmulationFailure,
};

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
    /// A signal, or a vCPU that was just started by another one.
    Interrupted,
    /// Triple fault.
    Shutdown,
    /// `instruction` is empty if KVM did not report it.
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

/// Decodes a page of somebody's making, the contents of a file of this size in bytes.
#[cfg(fuzzing)]
pub fn decode_exit(page: &impl AsRawFd, size: usize, look: impl FnOnce(Exit<'_>)) {
    if let Ok(mut page) = RunPage::map(page, size) {
        look(page.exit());
    }
}

/// The mapping. Dropping it unmaps it.
pub(super) struct RunPage {
    start: NonNull<kvm_run>,
    /// In bytes, at least a whole `kvm_run`.
    size: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and only the owner of the RunPage uses it.
unsafe impl Send for RunPage {}

impl RunPage {
    pub(super) fn map(vcpu: &impl AsRawFd, size: usize) -> io::Result<Self> {
        if size < size_of::<kvm_run>() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: a new mapping at an address of the kernel's choice takes no memory from anybody.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(start.cast::<kvm_run>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { start, size }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(super) fn immediate_exit(&self) -> ImmediateExit {
        // SAFETY: the field is within the mapping.
        let byte = unsafe { &raw mut (*self.start.as_ptr()).immediate_exit };
        // SAFETY: a field of what is mapped is not at address 0.
        ImmediateExit(unsafe { NonNull::new_unchecked(byte) })
    }

    /// Decodes the page after `KVM_RUN` returned 0.
    pub(super) fn exit(&mut self) -> Exit<'_> {
        let run = self.start.as_ptr();
        // SAFETY: KVM writes this page only in KVM_RUN, which needs the vCPU that `self` is borrowed from. Each member of
        // the union is read for the exit reason for which KVM fills it, and is plain numbers.
        unsafe {
            match (*run).exit_reason {
                KVM_EXIT_IO => self.port_access(),
                KVM_EXIT_MMIO => {
                    let mmio = &raw mut (*run).__bindgen_anon_1.mmio;
                    let (address, is_write) = ((*mmio).phys_addr, (*mmio).is_write);
                    let data = &mut (*mmio).data;
                    let length = ((*mmio).len as usize).min(data.len());
                    let data = &mut data[..length];
                    match is_write {
                        0 => Exit::MmioRead { address, data },
                        _ => Exit::MmioWrite { address, data },
                    }
                }
                KVM_EXIT_SHUTDOWN => Exit::Shutdown,
                KVM_EXIT_FAIL_ENTRY => Exit::FailEntry {
                    reason: (*run).__bindgen_anon_1.fail_entry.hardware_entry_failure_reason,
                },
                KVM_EXIT_INTERNAL_ERROR => internal_error(&(*run).__bindgen_anon_1.emulation_failure),
                reason => Exit::Other { reason },
            }
        }
    }

    fn port_access(&mut self) -> Exit<'_> {
        // SAFETY: KVM fills this member of the union for this exit reason, and it is plain numbers.
        let io = unsafe { (*self.start.as_ptr()).__bindgen_anon_1.io };
        let (offset, length) = (io.data_offset as usize, io.count as usize * usize::from(io.size));
        let is_inside = offset >= size_of::<kvm_run>() && offset.saturating_add(length) <= self.size;
        if !is_inside {
            return Exit::Other { reason: KVM_EXIT_IO };
        }
        // SAFETY: the bytes are inside the mapping and behind the struct. KVM leaves them alone until the next KVM_RUN,
        // which needs the vCPU that the result borrows.
        let data = unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast::<u8>().add(offset), length) };
        let (port, size) = (io.port, usize::from(io.size).max(1));
        match u32::from(io.direction) {
            KVM_EXIT_IO_OUT => Exit::PortWrite { port, size, data },
            _ => Exit::PortRead { port, size, data },
        }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and what `exit` gave out borrowed this. An ImmediateExit is used within the vCPU's
        // life, by its own contract.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

/// The byte that, while it is not 0, makes `KVM_RUN` return at once (KVM API, `immediate_exit`).
#[derive(Clone, Copy)]
pub struct ImmediateExit(NonNull<u8>);

impl ImmediateExit {
    pub(super) fn set(self, exit: bool) {
        // SAFETY: `RunPage` calls this within its life.
        unsafe { self.store(exit) };
    }

    /// Makes the next `KVM_RUN` return at once, or the one that a signal interrupts. A signal handler may call this.
    ///
    /// # Safety
    /// The vCPU that has this flag must exist.
    pub unsafe fn request(self) {
        // SAFETY: this function's contract.
        unsafe { self.store(true) };
    }

    /// # Safety
    /// The vCPU that has this flag must exist.
    unsafe fn store(self, exit: bool) {
        // SAFETY: the byte is mapped as long as the vCPU, and this process uses it only here, atomically.
        unsafe { AtomicU8::from_ptr(self.0.as_ptr()) }.store(exit.into(), Ordering::Relaxed);
    }
}

/// KVM API, `KVM_EXIT_INTERNAL_ERROR`: an emulation failure tells the instruction when its flag says so. Other internal
/// errors begin with the same suberror.
fn internal_error(failure: &EmulationFailure) -> Exit<'static> {
    const INSTRUCTION_BYTES: u64 = 1;
    let mut instruction = Vec::new();
    if failure.suberror == kvm_bindings::KVM_INTERNAL_ERROR_EMULATION
        && failure.ndata >= 1
        && failure.flags & INSTRUCTION_BYTES != 0
    {
        // SAFETY: the flag says that this member is the one in use, and it is plain numbers.
        let told = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        let length = usize::from(told.insn_size).min(told.insn_bytes.len());
        instruction = told.insn_bytes[..length].to_vec();
    }
    Exit::InternalError {
        suberror: failure.suberror,
        instruction,
    }
}
