//! Limits of the process (`ulimit`) that can be too low for a machine.
//!
//! What the guest will need is made, or proved to be there, before it runs: a device that finds no descriptor or thread for
//! its work later can only fail, and its guest hangs.

use std::error::Error;
use std::io;
use std::iter;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

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
        let number = causes.find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())?;
        match number {
            libc::EMFILE => Some(Self::OpenFiles {
                limit: get(libc::RLIMIT_NOFILE)?,
            }),
            libc::EAGAIN => Some(Self::of_a_thread(address_space())),
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

/// Raises the limit of open files as far as this process may. The lower limit that processes have at first is for
/// programs that use select(2).
pub fn raise_open_files() {
    let Some(mut limit) = get_both(libc::RLIMIT_NOFILE) else {
        return;
    };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the call reads one rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        let error = io::Error::last_os_error();
        log::debug!("cannot raise the limit of open files: {error}");
    }
}

/// Proves that `count` more descriptors can be opened, by duplicating `any` and closing the duplicates again.
pub fn prove_descriptors(any: &impl AsRawFd, count: usize) -> io::Result<()> {
    let duplicate = |_| {
        // SAFETY: the call takes no pointer, and the descriptor that it returns is new and nobody else's.
        unsafe {
            match libc::fcntl(any.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(OwnedFd::from_raw_fd(fd)),
            }
        }
    };
    let duplicates: Vec<_> = (0..count).map(duplicate).collect::<io::Result<_>>()?;
    drop(duplicates);
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
