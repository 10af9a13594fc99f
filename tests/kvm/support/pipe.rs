//! Pipes, and waits until they are full.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread;
use std::time::Instant;

use super::running::PATIENCE;

/// A pipe that holds one page: its reading end and its writing end.
pub fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are ours alone.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(result, 0, "a pipe can be made");
    // SAFETY: no pointers; the descriptor is open.
    unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, 4096) };
    // SAFETY: as above.
    unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) }
}

/// Waits until a pipe or a terminal, by its writing end, takes no more.
pub fn wait_until_full(pipe: &impl AsRawFd) {
    let deadline = Instant::now() + PATIENCE;
    let mut poll = libc::pollfd {
        fd: pipe.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // No event tells when it becomes full, so it polls. SAFETY: one pollfd, as it says.
    while unsafe { libc::poll(&mut poll, 1, 0) } != 0 {
        assert!(Instant::now() < deadline, "it has room after {PATIENCE:?}");
        thread::yield_now();
    }
}
