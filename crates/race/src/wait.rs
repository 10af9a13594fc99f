//! Waits for processes and for their output.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to delete a container, and its runner to end after that.
pub const PATIENCE_AT_END: Duration = Duration::from_secs(10);

/// Runs a command, and ends it if it takes too long.
pub fn run_within(mut command: Command, patience: Duration) {
    let deadline = Instant::now() + patience;
    let Ok(mut child) = command.stdout(Stdio::piped()).spawn() else {
        return;
    };
    if let Some(stdout) = &mut child.stdout {
        // Its output ends when it does.
        let descriptor = stdout.as_raw_fd();
        let is_ready =
            || matches!(poll(&[descriptor], deadline).as_deref(), Ok([true])) && Instant::now() < deadline;
        while is_ready() && stdout.read(&mut [0; 512]).is_ok_and(|count| count > 0) {}
    }
    // Both are errors only of a child that has been waited for.
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits for the end of a child: how it ended, and its user and system time in seconds.
pub fn wait4(pid: libc::pid_t) -> (ExitStatus, f64, f64) {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: wait4 writes one status and one rusage, both of which live across the call.
        if unsafe { libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()) } == pid {
            break;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            break;
        }
    }
    // SAFETY: all zeroes, which it was at first, is a valid rusage.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    (
        ExitStatus::from_raw(status),
        seconds(usage.ru_utime),
        seconds(usage.ru_stime),
    )
}

/// Which descriptors can be read without waiting; none when none became so until the deadline.
pub fn poll(descriptors: &[RawFd], deadline: Instant) -> io::Result<Vec<bool>> {
    let mut entries: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so as not to spin through the last millisecond.
        let timeout = left.as_micros().div_ceil(1000).try_into().unwrap_or(i32::MAX);
        // SAFETY: the pointer and the length are those of a vector, whose entries poll only writes the results of.
        let count = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout) };
        if count >= 0 {
            return Ok(entries.iter().map(|entry| entry.revents != 0).collect());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
