//! How a run ended, as the machine saw it.

use std::io;

/// Why the machine stopped. [`crate::diagnosis`] words it and gives it an exit code.
#[derive(Debug)]
pub enum Outcome {
    /// The guest wrote the ACPI sleep control register.
    PoweredOff,
    /// The guest reset itself through the keyboard controller: a reboot, or how a panicked Linux ends.
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
        /// The bytes at the instruction pointer, as far as KVM or guest memory told them; at most 15.
        instruction: Vec<u8>,
    },
    /// The processor refused the vCPU's state: `KVM_EXIT_FAIL_ENTRY` and the hardware's reason.
    EntryFailed { reason: u64 },
    /// An exit that no x86 guest of ours should cause, by its `KVM_EXIT_*` number.
    UnexpectedExit { reason: u32 },
    /// `KVM_RUN` itself failed.
    RunFailed(io::Error),
    /// The person typed the escape key and `x`.
    Quit,
    /// A signal asked this process to end.
    Signal(i32),
    /// Nobody takes the guest's console output any more.
    ConsoleLost(io::Error),
}
