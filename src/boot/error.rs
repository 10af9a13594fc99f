//! What can be wrong with a file that a guest boots from, in words.

use std::fmt;
use std::io;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// A kernel or initrd that cannot be booted, and why.
#[derive(Debug, thiserror::Error)]
#[error("{image}: {problem}")]
pub struct Error {
    /// The file's path, or the name of an image that Coracle carries inside.
    pub image: String,
    #[source]
    pub problem: Problem,
}

impl Error {
    /// Whether the file is not there at all, which has an exit code of its own.
    pub fn is_missing(&self) -> bool {
        matches!(self.problem, Problem::Missing)
    }
}

/// Each variant says what was found, what was expected, and where there is one, the next step.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("no such file (check the path)")]
    Missing,
    #[error("is a directory, expected a file")]
    Directory,
    #[error("is a pipe, socket or device, expected a regular file (copy its contents to one)")]
    NotAFile,
    #[error("is empty, expected a kernel or initrd (was it built or downloaded to the end?)")]
    Empty,
    #[error("permission denied (make it readable: chmod +r, or run as a user who may read it)")]
    Forbidden,
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    #[error("cannot be written to guest memory: {0}")]
    GuestMemory(vm_memory::GuestMemoryError),
    #[error("found {found}, expected an x86-64 Linux kernel, vmlinux or bzImage{hint}")]
    NotAKernel { found: String, hint: &'static str },
    #[error(
        "cut short: {part} ends at byte {end}, only {length} bytes are there (copy or download it again)"
    )]
    Truncated {
        part: &'static str,
        end: u64,
        length: u64,
    },
    #[error("a kernel with a wrong header: {0} (build or download it again)")]
    Header(String),
    #[error(
        "{what}, which is a virtual address: Coracle loads and enters a kernel at guest addresses, before it has page \
         tables of its own (link it with physical addresses for its segments and its entry, as Linux does, or give it \
         a PVH note)"
    )]
    VirtualAddress { what: String },
    #[error("corrupt: {0} (copy or download it again)")]
    Corrupt(String),
    #[error("needs the first {} of guest memory, the guest has {} (give it more with --memory)", Mebibytes(*needs), Mebibytes(*has))]
    NoRoomForKernel { needs: u64, has: u64 },
    #[error(
        "an initrd of {}, and beside the kernel the guest's memory has room for {} (give the guest more than {} with \
         --memory, since it unpacks the initrd there as well, or make the initrd smaller)",
        Mebibytes(*size), WholeMebibytes(*room), Mebibytes(*needs)
    )]
    NoRoomForInitrd { size: u64, room: u64, needs: u64 },
    #[error(
        "an initrd of {}, and it must lie in the first {} of guest memory, where beside the kernel there is room for {} \
         at most (make the initrd smaller, or put its files on a disk: --disk FILE)",
        Mebibytes(*size), WholeMebibytes(*limit), WholeMebibytes(*room)
    )]
    InitrdTooLarge { size: u64, room: u64, limit: u64 },
}

impl Problem {
    /// The error of a read that asked for bytes which the file's length promised.
    pub(super) fn reading(error: io::Error) -> Problem {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Problem::Corrupt("it shrank while it was read".to_string()),
            _ => Problem::Read(error),
        }
    }
}

/// A size for people: mebibytes rounded up, or bytes when it is less than one.
struct Mebibytes(u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1 << 20 => write!(f, "{bytes} bytes"),
            bytes => write!(f, "{} MiB", bytes.div_ceil(1 << 20)),
        }
    }
}

/// A size for people that is not to sound larger than it is: mebibytes rounded down, or bytes when it is less than one.
struct WholeMebibytes(u64);

impl fmt::Display for WholeMebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = self.0 % (1 << 20);
        let whole = if self.0 < 1 << 20 { self.0 } else { self.0 - part };
        Mebibytes(whole).fmt(f)
    }
}

/// All guest memory there is, in bytes.
pub(super) fn memory_size(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().map(|region| region.len()).sum()
}
