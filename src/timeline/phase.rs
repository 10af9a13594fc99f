//! The phases of a run. Each has the name of the moment that ends it.

use std::borrow::Cow;

/// A moment that ends a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    ArgumentsUnderstood,
    KvmOpened,
    MemoryMapped,
    VmCreated,
    MemoryRegistered,
    InterruptControllersCreated,
    VcpusCreated,
    ProcessorKnown,
    KernelLoaded,
    BootTablesWritten,
    VcpusSetUp,
    DevicesAttached,
    ConsoleReady,
    /// vCPU 0's first `KVM_RUN`: the guest's first instruction.
    GuestEntered,
    /// The guest wrote this byte to the boot clock.
    GuestMark(u8),
    /// The first line on the console has ended, and it is not the line of [`Phase::InitLine`].
    ConsoleLine,
    /// The built-in init's first line has ended.
    InitLine,
    /// The first byte after init's first line is on the console.
    WorkloadOutput,
    Ended,
}

/// Phases that follow one another on one thread. While a machine is built, the lanes `Kvm` and `Loading` run at the same
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Main,
    /// KVM creates its part of the machine.
    Kvm,
    /// Files are loaded into guest memory.
    Loading,
}

impl Phase {
    /// What the log and the table call the phase.
    pub fn words(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ArgumentsUnderstood => "arguments understood",
            Self::KvmOpened => "/dev/kvm opened",
            Self::MemoryMapped => "guest memory mapped",
            Self::VmCreated => "VM created",
            Self::MemoryRegistered => "guest memory registered",
            Self::InterruptControllersCreated => "interrupt controllers created",
            Self::VcpusCreated => "vCPUs created",
            Self::ProcessorKnown => "processor's features known",
            Self::KernelLoaded => "kernel and initrd in guest memory",
            Self::BootTablesWritten => "boot tables in guest memory",
            Self::VcpusSetUp => "vCPUs set up",
            Self::DevicesAttached => "devices attached",
            Self::ConsoleReady => "console ready",
            Self::GuestEntered => "vCPU 0 enters the guest",
            Self::GuestMark(1) => "kernel knows its command line",
            Self::GuestMark(2) => "kernel executes init",
            Self::GuestMark(3) => "init's first instructions",
            Self::GuestMark(4) => "init wrote its first line",
            Self::GuestMark(value) => return Cow::Owned(format!("guest's mark {value}")),
            Self::ConsoleLine => "first line on the console",
            Self::InitLine => "init's first line",
            Self::WorkloadOutput => "workload's first output",
            Self::Ended => "end of the run",
        })
    }

    /// What the JSON calls the phase. These names never change.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ArgumentsUnderstood => "arguments",
            Self::KvmOpened => "kvm_opened",
            Self::MemoryMapped => "memory_mapped",
            Self::VmCreated => "vm_created",
            Self::MemoryRegistered => "memory_registered",
            Self::InterruptControllersCreated => "interrupt_controllers",
            Self::VcpusCreated => "vcpus_created",
            Self::ProcessorKnown => "processor_known",
            Self::KernelLoaded => "kernel_loaded",
            Self::BootTablesWritten => "boot_tables",
            Self::VcpusSetUp => "vcpus_set_up",
            Self::DevicesAttached => "devices",
            Self::ConsoleReady => "console_ready",
            Self::GuestEntered => "first_guest_instruction",
            Self::GuestMark(value) => return Cow::Owned(format!("guest_mark_{value}")),
            Self::ConsoleLine => "console_line",
            Self::InitLine => "init_line",
            Self::WorkloadOutput => "workload_output",
            Self::Ended => "end",
        })
    }

    pub fn lane(self) -> Lane {
        match self {
            Self::VmCreated
            | Self::MemoryRegistered
            | Self::InterruptControllersCreated
            | Self::VcpusCreated
            | Self::VcpusSetUp => Lane::Kvm,
            Self::ProcessorKnown | Self::KernelLoaded | Self::BootTablesWritten => Lane::Loading,
            _ => Lane::Main,
        }
    }
}
