//! How a run ended, in terms of the machine.

use std::io;

/// Why the machine stopped. [`crate::diagnosis`] words it and gives it an exit code.
#[derive(Debug)]
pub enum Outcome {
    /// The guest wrote the ACPI sleep control register.
    PoweredOff,
    /// The guest reset itself through the keyboard controller. A reboot does that, and so does a Linux that panicked.
    Reset,
    /// No vCPU will ever go on: all execute `hlt` with interrupts off, or never started.
    Halted,
    /// The processor shut down because an exception could not be delivered.
    TripleFault { instruction_pointer: Option<u64> },
    /// KVM could not go on: `KVM_EXIT_INTERNAL_ERROR`.
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`; 1 is an instruction that KVM could not emulate.
        suberror: u32,
        instruction_pointer: Option<u64>,
        /// The bytes at the instruction pointer, at most 15. Empty when neither KVM nor guest memory had them.
        instruction: Vec<u8>,
    },
    /// The processor refused the vCPU's state: `KVM_EXIT_FAIL_ENTRY` and the hardware's reason.
    EntryFailed { reason: u64 },
    /// An exit that no guest should be able to cause here; its `KVM_EXIT_*` number.
    UnexpectedExit { reason: u32 },
    /// `KVM_RUN` itself failed.
    RunFailed(io::Error),
    /// The person typed the escape key and `x`.
    Quit,
    /// A signal asked this process to end.
    Signal(i32),
    /// The guest's console output cannot be written any more.
    ConsoleLost(io::Error),
}
