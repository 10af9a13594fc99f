//! The phases of a run, each named by the moment that ends it.

use std::borrow::Cow;

/// A moment of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    ArgumentsUnderstood,
    MemoryMapped,
    KvmOpened,
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
    /// A write to the boot clock.
    GuestMark(u8),
    /// The first line on the console is whole, and it is not init's.
    ConsoleLine,
    /// The built-in init's first line is whole.
    InitLine,
    /// The first byte after init's first line.
    WorkloadOutput,
    Ended,
}

/// Phases that follow one another. Two of them are beside each other while a machine is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Main,
    /// KVM's side of the machine.
    Kvm,
    /// Files into guest memory.
    Loading,
}

impl Phase {
    /// The words of the log and of the table.
    pub fn words(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ArgumentsUnderstood => "arguments understood",
            Self::MemoryMapped => "guest memory mapped",
            Self::KvmOpened => "/dev/kvm opened",
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

    /// The name in JSON, which never changes.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ArgumentsUnderstood => "arguments",
            Self::MemoryMapped => "memory_mapped",
            Self::KvmOpened => "kvm_opened",
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
