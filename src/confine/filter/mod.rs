//! Which system calls the threads may make (seccomp(2)). The main thread restricts itself once all files are open, and every
//! thread inherits that. When a thread has all that its work needs, it narrows its own filter with `narrow`.
//!
//! A call that a filter refuses is not carried out; it ends the process (`refusal.rs`).

/// How a refused call ends the process.
mod refusal;
/// What each kind of thread may do. The build script compiles this.
#[cfg(test)]
mod tables;

use std::cell::Cell;
use std::sync::OnceLock;
use std::{fmt, process};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter, sock_filter};

use super::{Layer, State};

/// The programs that the build script made of the tables.
mod compiled {
    use seccompiler::sock_filter;
    include!(concat!(env!("OUT_DIR"), "/filters.rs"));
}

/// What ends a process that is confined by filters, with these words.
pub type End = fn(&str) -> !;

static END: OnceLock<End> = OnceLock::new();

thread_local! {
    static KIND: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// A kind of thread with a filter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The main thread of a run that ends with its first boot.
    Main,
    /// The main thread where the guest can boot again.
    MainWithRestarts,
    Vcpu,
    /// A disk's thread with the engine `sync`.
    Disk,
    /// A disk's thread with the engine `uring`.
    DiskWithRing,
    /// The socket device's thread.
    Vsock,
    /// The writer of the console's output, of the guest's log, or of Coracle's own lines.
    Console,
    /// The thread that answers other commands at the control socket.
    Control,
}

impl Kind {
    fn program(self) -> &'static [sock_filter] {
        match self {
            Self::Main => &compiled::MAIN,
            Self::MainWithRestarts => &compiled::MAIN_WITH_RESTARTS,
            Self::Vcpu => &compiled::VCPU,
            Self::Disk => &compiled::DISK,
            Self::DiskWithRing => &compiled::DISK_WITH_RING,
            Self::Vsock => &compiled::VSOCK,
            Self::Console => &compiled::CONSOLE,
            Self::Control => &compiled::CONTROL,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Main | Self::MainWithRestarts => "the main thread",
            Self::Vcpu => "a vCPU's thread",
            Self::Disk | Self::DiskWithRing => "a disk's thread",
            Self::Vsock => "the socket device's thread",
            Self::Console => "a thread that writes output",
            Self::Control => "the control socket's thread",
        })
    }
}

/// Restricts the calling thread, and those that it starts, to the calls that any thread of a machine needs. A machine is plain
/// that has neither disks nor a socket device nor a name.
pub fn restrict(is_plain: bool) -> Layer {
    layer(install(start_program(is_plain), None))
}

fn layer(installed: Result<(), seccompiler::Error>) -> Layer {
    let state = match installed {
        Ok(()) => State::Enforced("each thread can make the system calls of its own work only"),
        Err(error) => State::Missing(format!("seccomp(2): {error}")),
    };
    let name = "calls";
    Layer { name, state }
}

/// Does the same for the process, which has no thread but the calling one. Once that is done, [`narrow`] narrows, and a call
/// that is refused ends the process with `end`.
pub fn restrict_process(is_plain: bool, end: End) -> Layer {
    // The filter allows no handler of this signal.
    let caught = refusal::catch();
    let layer = restrict(is_plain);
    if layer.missing().is_none() {
        if let Err(error) = caught {
            log::debug!("a system call that is refused ends this process without a word: {error}");
        }
        // Only the first one counts.
        let _ = END.set(end);
    }
    layer
}

/// Restricts the calling thread, and those that it starts, to what its work needs, if this process is confined and the thread has
/// not done so before. Ends the process if that fails, which it does for lack of memory only.
pub fn narrow(kind: Kind) {
    let Some(end) = END.get() else { return };
    if KIND.get().is_some() {
        return;
    }
    if let Err(error) = install(kind.program(), None) {
        end(&format!("coracle: cannot restrict {kind}: {error}\n"));
    }
    KIND.set(Some(kind));
}

/// Notes that the calling thread has the restrictions of the one that started it.
pub fn inherited(kind: Kind) {
    if END.get().is_some() {
        KIND.set(Some(kind));
    }
}

/// Restricts the calling process, which has one thread and is not restricted yet, to connections with programs of the host on
/// behalf of a guest. What it may not do ends it.
pub fn restrict_connector() -> Layer {
    layer(install(&compiled::CONNECTOR, None))
}

/// Restricts the calling thread, which no filter restricts yet, to unpacking a layer of an image from one open file to another. What
/// it may not do ends the process by SIGSYS.
pub fn restrict_unpacker() -> Layer {
    layer(install(&compiled::UNPACKER, None))
}

/// Calls by which a program reaches others or becomes one, and what opens the kernel to more than files.
const OUTWARD: [i64; 12] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_mount,
];

/// Takes these calls from the calling thread and those that it starts, which no filter restricts yet: each fails as if the user had no
/// right to it. The files that are opened are many, so there is no list of all that is allowed.
pub fn restrict_reader() -> Layer {
    let rules = OUTWARD.map(|number| (number, Vec::new())).into();
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::x86_64);
    let program = filter
        .and_then(BpfProgram::try_from)
        .map_err(seccompiler::Error::from);
    layer(program.and_then(|program| apply_filter(&program)))
}

/// Whether the calling thread may start others of another kind.
pub fn may_start_threads() -> bool {
    matches!(KIND.get(), None | Some(Kind::Main | Kind::MainWithRestarts))
}

fn start_program(is_plain: bool) -> &'static [sock_filter] {
    match is_plain {
        true => &compiled::START_PLAIN,
        false => &compiled::START,
    }
}

/// Restricts the process that keeps the terminal for this child.
pub fn restrict_keeper(child: u32) -> Result<(), seccompiler::Error> {
    install(&compiled::KEEPER, Some(child))
}

fn install(program: &[sock_filter], child: Option<u32>) -> Result<(), seccompiler::Error> {
    let own = process::id();
    let program: Vec<_> = program
        .iter()
        .map(|instruction| match instruction.k {
            compiled::OWN_PROCESS => sock_filter {
                k: own,
                ..instruction.clone()
            },
            compiled::CHILD => sock_filter {
                k: child.unwrap_or(own),
                ..instruction.clone()
            },
            _ => instruction.clone(),
        })
        .collect();
    apply_filter(&program)
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod tests;

#[cfg(test)]
#[path = "calls_test.rs"]
mod calls_tests;
