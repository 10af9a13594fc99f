//! Coracle: a virtual machine that starts like a container and keeps a kernel of its own.
//!
//! The modules, and what each is for; docs/architecture.md draws the arrows between them.

// Loads files into guest memory: kernels of every format, initrds, the command line.
pub mod boot;
// The guest that the program carries inside.
pub mod built_in;
// Locks on bytes of a file, which the kernel gives back.
pub mod byte_lock;
// Finds the device of an address.
pub mod bus;
// The host's monotonic clock.
pub mod clock;
// The subcommands, one file each.
pub mod commands;
// What a machine is made of: plain data.
pub mod config;
// What the process may still do once the guest runs.
pub mod confine;
// The guest's console, and the terminal that shows it.
pub mod console;
// Devices of a PC that Linux expects.
pub mod devices;
// Makes an explanation and a suggestion of an outcome and the last console lines.
pub mod diagnosis;
// The directories of guests that have a name.
pub mod guests;
// One guest interrupt line, as a device holds it.
pub mod interrupt;
// The only module that names KVM.
pub mod kvm;
// The log: lines on stderr.
pub mod logging;
// Makes a running machine of a configuration, and an outcome of its end.
pub mod machine;
// Text that somebody else chose, safe to show and to type.
pub mod plain_text;
// A program in a guest, and this process' streams and signals for it.
pub mod program;
// Random numbers of the host's kernel.
pub mod random;
// Marks the error of a thread that could not be started.
pub mod threads;
// Notes where the time of a run goes.
pub mod timeline;
// Shows where the time of a run went.
pub mod timings;
// Unix sockets where the standard library would wait.
pub mod unix_socket;
// Devices of virtio 1.2 and their transport.
pub mod virtio;
// The disk that the guest of an OCI image writes to, as it is new.
pub mod writable_layer;
// What is specific to an x86 PC.
pub mod x86;
