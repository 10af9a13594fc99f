//! Limits of the process (`ulimit`) that can be too low for a machine.
//!
//! What the guest will need is made, or proved to be there, before it runs: a device that finds no descriptor or thread for
//! its work later can only fail, and its guest hangs.

use std::error::Error;
use std::mem::MaybeUninit;
use std::{io, iter, ptr};

use crate::threads;

/// The addresses that a thread takes, in bytes: 2 MiB of stack, and a small stack for signal handlers. The threads of
/// disks have smaller stacks, and take the rest for requests.
const THREAD_ADDRESSES: usize = (2 << 20) + (128 << 10);
/// The addresses that all other allocations take, in bytes, but for the caches of qcow2 images.
const HEAP_ADDRESSES: usize = 16 << 20;
/// Threads that every run may have, beside those of vCPUs and disks.
const OWN_THREADS: usize = 8;

/// A limit that kept a machine from being made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitReached {
    #[error(
        "this machine needs more open files than the limit of {limit} allows (raise it with 'ulimit -n {}', or leave \
         out disks)",
        1024.max(limit * 2)
    )]
    OpenFiles { limit: u64 },
    #[error(
        "this machine needs more threads than this user or container may have (raise the limit with 'ulimit -u \
         unlimited', or give it fewer --cpus and disks)"
    )]
    Threads,
    #[error(
        "this machine needs more threads than this user or container may have, or more address space for them than the \
         limit of {} KiB allows (raise the limits with 'ulimit -u unlimited' and 'ulimit -v unlimited', or give it fewer \
         --cpus and disks)",
        limit >> 10
    )]
    ThreadsOrAddressSpace { limit: u64 },
    #[error(
        "this machine needs more address space than the limit of {} KiB allows (raise it with 'ulimit -v unlimited', \
         or give the guest less with --memory)",
        limit >> 10
    )]
    AddressSpace { limit: u64 },
}

impl LimitReached {
    /// The limit that `error` comes from, if it comes from one.
    pub fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut causes = iter::successors(Some(error), |&error| error.source());
        causes.find_map(|cause| Self::behind_io(cause.downcast_ref()?))
    }

    fn behind_io(error: &io::Error) -> Option<Self> {
        if threads::is_not_started(error) {
            return Some(Self::of_a_thread(address_space()));
        }
        match error.raw_os_error()? {
            libc::EMFILE => Some(Self::OpenFiles {
                limit: get(libc::RLIMIT_NOFILE)?,
            }),
            libc::ENOMEM => address_space().map(|limit| Self::AddressSpace { limit }),
            _ => None,
        }
    }

    /// The limit that kept a thread from being started. The error is the same if the thread's stack does not fit into what
    /// the limit of `address_space` allows.
    fn of_a_thread(address_space: Option<u64>) -> Self {
        match address_space {
            Some(limit) => Self::ThreadsOrAddressSpace { limit },
            None => Self::Threads,
        }
    }
}

/// Raises the limits of open files and of locked memory as far as this process may. The lower limit of open files that
/// processes have at first is for programs that use select(2). A ring of io_uring takes locked memory, which newer kernels
/// count for all processes of a user together, and for root as well once confinement has taken its capabilities.
pub fn raise() {
    raise_to(libc::RLIMIT_NOFILE, None);
    // Only root may have more than the hard limit.
    if !raise_to(libc::RLIMIT_MEMLOCK, Some(libc::RLIM_INFINITY)) {
        raise_to(libc::RLIMIT_MEMLOCK, None);
    }
}

/// Raises a limit to `value`, or without one to the hard limit. Returns whether that is permitted.
fn raise_to(resource: libc::__rlimit_resource_t, value: Option<libc::rlim_t>) -> bool {
    let Some(mut limit) = get_both(resource) else {
        return false;
    };
    limit.rlim_max = value.unwrap_or(limit.rlim_max);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the call reads one rlimit.
    let is_raised = unsafe { libc::setrlimit(resource, &limit) } == 0;
    if !is_raised {
        let error = io::Error::last_os_error();
        match limit.rlim_cur {
            libc::RLIM_INFINITY => log::debug!("cannot lift a limit of this process: {error}"),
            value => log::debug!("cannot raise a limit of this process to {value}: {error}"),
        }
    }
    is_raised
}

/// Has all threads allocate from one heap. By default each thread sets 64 MiB of addresses aside for a heap of its own, unless a
/// limit is in the way: whether a machine can start would depend on how many threads happen to allocate at the same time. And to
/// give memory of such a heap back, the C library opens a file, which a confined process cannot. To be called before the first
/// thread is started.
pub fn share_heap() {
    // SAFETY: no thread but this one runs yet. The call fails only for an unknown parameter.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Proves that what a machine takes beside guest memory fits into the limit of address space: `threads` threads of vCPUs
/// and disks, our own threads, and what they all allocate.
pub fn prove_address_space(threads: usize) -> io::Result<()> {
    let needed = HEAP_ADDRESSES + (OWN_THREADS + threads) * THREAD_ADDRESSES;
    if address_space().is_none() {
        return Ok(());
    }
    // SAFETY: the kernel chooses addresses at which nothing is mapped, and nobody uses the mapping.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let start = libc::mmap(ptr::null_mut(), needed, libc::PROT_NONE, flags, -1, 0);
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        libc::munmap(start, needed);
    }
    Ok(())
}

/// The limit of address space in bytes, if there is one.
fn address_space() -> Option<u64> {
    get(libc::RLIMIT_AS).filter(|&limit| limit != libc::RLIM_INFINITY)
}

/// The limit in force.
fn get(resource: libc::__rlimit_resource_t) -> Option<u64> {
    get_both(resource).map(|limit| limit.rlim_cur)
}

fn get_both(resource: libc::__rlimit_resource_t) -> Option<libc::rlimit> {
    let mut limit = MaybeUninit::uninit();
    // SAFETY: the call writes a whole rlimit when it returns 0, and only then is it read.
    unsafe { (libc::getrlimit(resource, limit.as_mut_ptr()) == 0).then(|| limit.assume_init()) }
}

#[cfg(test)]
#[path = "limits_test.rs"]
mod tests;
