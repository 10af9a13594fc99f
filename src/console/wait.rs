//! Waiting for file descriptors, regular files among them (which epoll refuses).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy)]
pub enum For<'a> {
    Reading(BorrowedFd<'a>),
    Writing(BorrowedFd<'a>),
    Both(BorrowedFd<'a>),
    /// Nothing but that it hung up or is broken.
    HangUp(BorrowedFd<'a>),
}

/// Waits until one of `watched` is ready, or for `patience` at most, and says which are ready. A descriptor that hung
/// up or is broken counts as ready: using it gives the error. `None` entries are never ready.
pub fn wait<const N: usize>(watched: [Option<For>; N], patience: Option<Duration>) -> io::Result<[bool; N]> {
    let mut entries = [entry(-1, 0); N];
    let mut count = 0;
    // poll(2) takes no more entries than the process may have files open, so there is none for a `None`.
    for (entry_of, watched) in entries.iter_mut().zip(watched.iter().flatten()) {
        *entry_of = match watched {
            For::Reading(fd) => entry(fd.as_raw_fd(), libc::POLLIN),
            For::Writing(fd) => entry(fd.as_raw_fd(), libc::POLLOUT),
            For::Both(fd) => entry(fd.as_raw_fd(), libc::POLLIN | libc::POLLOUT),
            For::HangUp(fd) => entry(fd.as_raw_fd(), 0),
        };
        count += 1;
    }
    // Rounded up: poll with less than a millisecond left would return at once, again and again.
    let timeout = patience.map_or(-1, |patience| {
        patience
            .as_nanos()
            .div_ceil(1_000_000)
            .try_into()
            .unwrap_or(i32::MAX)
    });
    loop {
        // SAFETY: the array has at least `count` valid entries, and poll only writes their revents.
        let result = unsafe { libc::poll(entries.as_mut_ptr(), count, timeout) };
        if result >= 0 {
            let mut entries = entries.iter();
            let mut is_ready = || entries.next().is_some_and(|entry| entry.revents != 0);
            return Ok(watched.map(|watched| watched.is_some() && is_ready()));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Whether a descriptor can be written to now.
pub fn is_ready_for_writing(fd: BorrowedFd) -> bool {
    matches!(wait([Some(For::Writing(fd))], Some(Duration::ZERO)), Ok([true]))
}

/// An eventfd as what [`For`] takes.
pub fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the eventfd that the result borrows.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

fn entry(fd: i32, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_ready_is_told_in_the_place_in_which_it_was_given() {
        let (silent, _its_writer) = pipe().unwrap();
        let (spoken, mut its_writer) = pipe().unwrap();
        its_writer.write_all(b"x").unwrap();
        let [silent, spoken] = [&silent, &spoken].map(|pipe| Some(For::Reading(pipe.as_fd())));
        let ready = wait([None, silent, None, spoken, silent, None], Some(Duration::ZERO));
        assert_eq!(ready.unwrap(), [false, false, false, true, false, false]);
    }
}
