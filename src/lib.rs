//! Coracle: a virtual machine that starts like a container and keeps a kernel of its own.
//!
//! The modules, and what each is for; docs/architecture.md draws the arrows between them.

// Files into guest memory: kernels of every format, initrds, the command line.
pub mod boot;
// The guest that the program carries inside.
pub mod built_in;
// Address ranges to devices.
pub mod bus;
// The host's monotonic clock.
pub mod clock;
// One file a subcommand.
pub mod commands;
// What a machine is made of: plain data.
pub mod config;
// The person's terminal.
pub mod console;
// Devices of a PC that Linux expects.
pub mod devices;
// An outcome and the last console lines into one explanation and one suggestion.
pub mod diagnosis;
// One guest interrupt line, as a device holds it.
pub mod interrupt;
// The only module that names KVM.
pub mod kvm;
// A configuration becomes a running machine, and a running machine an outcome.
pub mod machine;
// Text that somebody else chose, safe to show and to type.
pub mod plain_text;
// Where the time of a boot goes.
pub mod timings;
// Devices of virtio 1.2 and their transport.
pub mod virtio;
// What only an x86 PC has.
pub mod x86;
