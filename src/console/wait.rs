//! Waiting for file descriptors, regular files among them (which epoll refuses).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy)]
pub enum For<'a> {
    Reading(BorrowedFd<'a>),
    Writing(BorrowedFd<'a>),
}

/// Waits until one of `watched` is ready, or for `patience` at most, and says which are ready. A hung-up or broken
/// descriptor is, so that using it tells; `None` entries never are.
pub fn wait<const N: usize>(watched: [Option<For>; N], patience: Option<Duration>) -> io::Result<[bool; N]> {
    let mut entries = watched.map(|watched| match watched {
        Some(For::Reading(fd)) => entry(fd.as_raw_fd(), libc::POLLIN),
        Some(For::Writing(fd)) => entry(fd.as_raw_fd(), libc::POLLOUT),
        // poll(2) passes over negative descriptors.
        None => entry(-1, 0),
    });
    let timeout = patience.map_or(-1, |patience| patience.as_millis().try_into().unwrap_or(i32::MAX));
    loop {
        // SAFETY: the array is N valid entries, and poll only writes their revents.
        let result = unsafe { libc::poll(entries.as_mut_ptr(), N as libc::nfds_t, timeout) };
        if result >= 0 {
            return Ok(entries.map(|entry| entry.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn entry(fd: i32, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}
