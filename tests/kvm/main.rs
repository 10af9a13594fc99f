//! Whole-program tests on real KVM: the `coracle` binary runs guests of a few instructions, written in assembly beside
//! what is claimed about them. They pass on any KVM, also on one that interprets guest kernels, and fail where there
//! is no /dev/kvm.

#[macro_use]
mod support;

/// Terminals that are attached to the console of a guest that runs.
mod attached;
/// Arguments and files that cannot be used.
mod command_line;
/// What code could do that has taken the running process over.
mod confine;
/// How far a run is confined, and what is told of it.
mod confinement;
/// The console, for code that has no terminal.
mod consoles;
/// Commands about a guest that hangs, or with whose directory another process does something at the same time.
mod contended;
/// Processors: how they start and what they are told of each other.
mod cpus;
/// Every way that a run ends, and its exit code.
mod ends;
/// What a kernel finds at its entry.
mod entry;
/// Filters for system calls.
mod filters;
/// Guests that mean harm.
mod hostile;
/// Guests that have nothing to do.
mod idle;
/// Commands about OCI images.
mod images;
/// Interrupts, from a device to the guest's handler.
mod interrupts;
/// The parent that keeps the terminal of a run.
mod keeper;
/// Every step of a command at which it can be killed.
mod kill_points;
/// What commands that are killed leave of named guests, and directories that no guest made.
mod left_behind;
/// Directories of guests that lie about a process.
mod lies;
/// Limits of the process that are too low for a machine.
mod limits;
/// What guests with names print, and what Coracle says of them.
mod logs;
/// Guests that have a name: the background, and what is left of them.
mod named;
/// Addresses of no device.
mod nowhere;
/// Machines that are paused and resumed by whoever holds them.
mod pauses;
/// A stdout that is closed or full, or whose reader has gone.
mod refusing_stdout;
/// Registers of a processor: model-specific ones, and those of its local APIC.
mod registers;
/// Guests that reboot and boot again.
mod restarts;
/// The serial port, both ways.
mod serial;
/// The socket of `--vsock`, over several runs.
mod sockets;
/// Hosts on which a write takes for ever.
mod stalled;
/// Stops: for good by a signal, for a while by SIGSTOP.
mod stops;
/// A person's terminal, and job control.
mod terminals;
/// Disks, driven by a driver that somebody else wrote.
mod third_party;
/// Many guests with names at a time.
mod thousands;
/// Where the time of a run goes.
mod timings;
/// A disk, driven by hand.
mod virtio;
