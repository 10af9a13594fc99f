//! A vCPU's thread: it runs the guest, and passes the guest's accesses to devices on to the buses.

use std::mem;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::halt::{HaltWatch, Interruption};
use super::orders::{Next, Orders};
use super::{Error, Outcome};
use crate::bus::Bus;
use crate::clock::coarse;
use crate::confine::filter;
use crate::kvm::{Exit, Vcpu};
use crate::threads;
use crate::timeline::{Phase, Tally, Timeline};

/// Longest x86 instruction, in bytes.
const INSTRUCTION_MAX: usize = 15;
/// The instruction pointer of a processor after a reset. No guest of ours has code there.
const RESET_VECTOR: u64 = 0xfff0;
/// A vCPU that was out of the guest for this long tells the guest that it was stopped. It is well below the ten seconds or
/// more after which a guest's watchdog reports that a processor hangs.
const LONG_AWAY: Duration = Duration::from_secs(1);

/// The parts of a machine that its vCPUs use.
pub struct Board {
    pub ports: Bus,
    pub mmio: Bus,
    pub memory: Arc<GuestMemoryMmap>,
    pub orders: Arc<Orders>,
    pub halts: HaltWatch,
}

/// A running vCPU.
pub struct Thread(JoinHandle<Vcpu>);

impl Thread {
    pub fn start(index: usize, vcpu: Vcpu, board: Arc<Board>, timeline: Timeline) -> Result<Self, Error> {
        thread::Builder::new()
            .name(format!("vcpu-{index}"))
            .spawn(move || {
                let tally = timeline.tally(index);
                match index {
                    0 => timeline.mark(Phase::GuestEntered),
                    _ => log::debug!("vCPU {index} enters the guest"),
                }
                run(index, vcpu, &board, tally)
            })
            .map(Self)
            .map_err(|error| Error::System {
                what: "start a vCPU's thread",
                source: threads::not_started(error),
            })
    }

    /// Waits for the thread to end, after [`Orders::stop`]. The vCPU is dropped here: its own thread may close nothing.
    pub fn join(self) {
        if self.0.join().is_err() {
            log::error!("a vCPU's thread panicked");
        }
    }
}

/// Runs the vCPU until it is ordered to stop. It does not enter the guest against an order: the order is given before the
/// kick, and the kick ends either the `KVM_RUN` that is under way or the next one before it enters the guest.
fn run(index: usize, mut vcpu: Vcpu, board: &Board, mut tally: Option<Tally>) -> Vcpu {
    // SAFETY: variables are dropped before parameters and before what is returned, so the vCPU outlives this, also when a panic
    // unwinds.
    let _kickable = unsafe { board.orders.vcpus.enter(vcpu.immediate_exit()) };
    let mut halts = board.halts.watch(index, &board.orders.vcpus);
    filter::narrow(filter::Kind::Vcpu);
    // Whether the guest missed some time since it was last told of that.
    let mut was_stopped = false;
    loop {
        match board.orders.next() {
            Next::Enter => (),
            Next::EnterAfterPause => was_stopped = true,
            Next::Stop => break,
        }
        if mem::take(&mut was_stopped)
            && let Err(error) = vcpu.tell_of_a_stop()
        {
            log::debug!("{error}");
        }
        let outcome = match vcpu.run() {
            Ok(exit) => {
                let is_interrupted = matches!(exit, Exit::Interrupted);
                let left = coarse();
                let mut outcome = match &mut tally {
                    None => handle(exit, board),
                    Some(tally) => tally.time(exit, |exit| handle(exit, board)),
                };
                // The process was stopped while the exit was handled, or the reader of the guest's output was slow.
                was_stopped = coarse().saturating_sub(left) >= LONG_AWAY;
                if is_interrupted {
                    match halts.interrupted(|| vcpu.standing()) {
                        Interruption::HaltedForGood => outcome = Some(Outcome::Halted),
                        Interruption::Ours => (),
                        // The whole process was stopped: by SIGSTOP, a frozen cgroup, or a debugger. Other signals than
                        // those that the watch sends are blocked in this thread.
                        Interruption::Foreign => was_stopped = true,
                    }
                } else {
                    halts.exited();
                }
                outcome
            }
            Err(error) => Some(Outcome::RunFailed(error)),
        };
        if let Some(outcome) = outcome {
            board.orders.stop(with_instruction(outcome, &vcpu, &board.memory));
        }
    }
    vcpu
}

/// Handles an exit. Returns an outcome if the guest cannot go on.
fn handle(exit: Exit, board: &Board) -> Option<Outcome> {
    match exit {
        // A string instruction makes several accesses to the same port.
        Exit::PortRead { port, size, data } => {
            data.chunks_mut(size)
                .for_each(|access| board.ports.read(port.into(), access));
        }
        Exit::PortWrite { port, size, data } => {
            data.chunks(size)
                .for_each(|access| board.ports.write(port.into(), access));
        }
        Exit::MmioRead { address, data } => board.mmio.read(address, data),
        Exit::MmioWrite { address, data } => board.mmio.write(address, data),
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

/// Adds the vCPU's instruction pointer to the outcome, and the bytes of the instruction there if KVM did not give them.
fn with_instruction(mut outcome: Outcome, vcpu: &Vcpu, memory: &GuestMemoryMmap) -> Outcome {
    let rip = vcpu.registers().ok().map(|registers| registers.rip);
    match &mut outcome {
        // On AMD processors KVM has already reset the vCPU, so its instruction pointer is lost.
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
    // Near the end of memory fewer bytes can be read, which is enough for the shorter instruction there.
    let read = memory.read(&mut bytes, GuestAddress(address)).unwrap_or(0);
    bytes.truncate(read);
    bytes
}
