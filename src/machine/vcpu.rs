//! A vCPU's thread: runs the guest, and carries its exits to the buses.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::ending::Ending;
use super::{Error, Outcome};
use crate::bus::Bus;
use crate::kvm::{Exit, Vcpu};
use crate::timings::{Phase, Tally, Timeline};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Longest x86 instruction, in bytes.
const INSTRUCTION_MAX: usize = 15;
/// The instruction pointer of a processor after its reset, where no guest of ours has code.
const RESET_VECTOR: u64 = 0xfff0;

thread_local! {
    /// What makes the `KVM_RUN` of this thread return at once; null when it runs no vCPU.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// What all vCPUs of a machine share.
pub struct Shared {
    pub ports: Bus,
    pub mmio: Bus,
    pub memory: Arc<GuestMemoryMmap>,
    pub ending: Arc<Ending>,
}

/// A running vCPU.
pub struct Thread(JoinHandle<()>);

impl Thread {
    pub fn start(index: usize, vcpu: Vcpu, shared: Arc<Shared>, timeline: Timeline) -> Result<Self, Error> {
        thread::Builder::new()
            .name(format!("vcpu-{index}"))
            .spawn(move || {
                let tally = timeline.tally(index);
                match index {
                    0 => timeline.mark(Phase::GuestEntered),
                    _ => log::debug!("vCPU {index} enters the guest"),
                }
                run(vcpu, &shared, tally);
            })
            .map(Self)
            .map_err(|source| Error::System {
                what: "start a vCPU's thread",
                source,
            })
    }

    /// Brings the vCPU out of the guest, after [`Ending::end`], and waits for its thread.
    pub fn stop(self) {
        if let Err(error) = self.0.kill(SIGRTMIN()) {
            log::debug!("a vCPU's thread is gone already: {error}");
        }
        if self.0.join().is_err() {
            log::error!("a vCPU's thread panicked");
        }
    }
}

/// Installs the handler of the signal that [`Thread::stop`] sends.
pub fn catch_stop_signal() -> Result<(), Error> {
    extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let immediate_exit = IMMEDIATE_EXIT.get();
        if !immediate_exit.is_null() {
            // SAFETY: it points into the kvm_run page of the vCPU that this thread owns: `run` sets and clears it
            // within the vCPU's life.
            unsafe { immediate_exit.write_volatile(1) };
        }
    }
    register_signal_handler(SIGRTMIN(), handle).map_err(|error| Error::System {
        what: "catch a signal",
        source: error.into(),
    })
}

fn run(mut vcpu: Vcpu, shared: &Shared, mut tally: Option<Tally>) {
    IMMEDIATE_EXIT.set(vcpu.immediate_exit());
    while !shared.ending.requested() {
        let outcome = match vcpu.run() {
            Ok(exit) => match &mut tally {
                None => handle(exit, shared),
                Some(tally) => tally.time(exit, |exit| handle(exit, shared)),
            },
            Err(error) => Some(Outcome::RunFailed(error)),
        };
        if let Some(outcome) = outcome {
            shared
                .ending
                .end(with_instruction(outcome, &vcpu, &shared.memory));
        }
    }
    IMMEDIATE_EXIT.set(ptr::null_mut());
}

/// Answers an exit; an outcome when the guest cannot go on.
fn handle(exit: Exit, shared: &Shared) -> Option<Outcome> {
    match exit {
        // A string instruction makes several accesses to the same port.
        Exit::PortRead { port, size, data } => {
            data.chunks_mut(size)
                .for_each(|access| shared.ports.read(port.into(), access));
        }
        Exit::PortWrite { port, size, data } => {
            data.chunks(size)
                .for_each(|access| shared.ports.write(port.into(), access));
        }
        Exit::MmioRead { address, data } => shared.mmio.read(address, data),
        Exit::MmioWrite { address, data } => shared.mmio.write(address, data),
        Exit::Interrupted => (),
        Exit::Shutdown => {
            return Some(Outcome::TripleFault {
                instruction_pointer: None,
            });
        }
        Exit::InternalError {
            suberror,
            instruction,
        } => {
            return Some(Outcome::InternalError {
                suberror,
                instruction_pointer: None,
                instruction,
            });
        }
        Exit::FailEntry { reason } => return Some(Outcome::EntryFailed { reason }),
        Exit::Other { reason } => return Some(Outcome::UnexpectedExit { reason }),
    }
    None
}

/// Adds where the vCPU stands, and the bytes of the instruction there if KVM did not tell them.
fn with_instruction(mut outcome: Outcome, vcpu: &Vcpu, memory: &GuestMemoryMmap) -> Outcome {
    let rip = vcpu.registers().ok().map(|registers| registers.rip);
    match &mut outcome {
        // KVM on AMD processors has reset the vCPU by now: where it was is lost.
        Outcome::TripleFault { instruction_pointer } => {
            *instruction_pointer = rip.filter(|&rip| rip != RESET_VECTOR)
        }
        Outcome::InternalError {
            instruction_pointer,
            instruction,
            ..
        } => {
            *instruction_pointer = rip;
            if instruction.is_empty() {
                *instruction = rip
                    .map(|rip| read_instruction(rip, vcpu, memory))
                    .unwrap_or_default();
            }
        }
        _ => (),
    }
    outcome
}

fn read_instruction(rip: u64, vcpu: &Vcpu, memory: &GuestMemoryMmap) -> Vec<u8> {
    let base = vcpu
        .special_registers()
        .map(|special| special.cs.base)
        .unwrap_or(0);
    let Some(address) = vcpu.translate(base.wrapping_add(rip)) else {
        return Vec::new();
    };
    let mut bytes = vec![0; INSTRUCTION_MAX];
    // An instruction at the end of memory is shorter.
    let read = memory.read(&mut bytes, GuestAddress(address)).unwrap_or(0);
    bytes.truncate(read);
    bytes
}
