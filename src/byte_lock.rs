//! Locks on bytes of a file (fcntl(2), "open file description locks"). The kernel releases one when the last descriptor of the
//! open file is closed, so also when its process is killed.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::{io, mem};

/// What is asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Take or release a lock, and fail if somebody else's is in the way.
    Set,
    /// Do the same, but wait until none is in the way.
    SetWaiting,
    /// Say which kind of somebody else's lock is in the way.
    Get,
}

/// Whether somebody else has a lock on one of the bytes.
pub fn is_taken(file: &File, bytes: Range<i64>) -> io::Result<bool> {
    Ok(call(file, Command::Get, libc::F_WRLCK, bytes)? != libc::F_UNLCK)
}

/// Calls fcntl(2) with a lock of this kind (`F_RDLCK`, `F_WRLCK` or `F_UNLCK`) on `bytes`. The answer is the kind of lock that
/// the call has put into its argument.
pub fn call(file: &File, command: Command, kind: libc::c_int, bytes: Range<i64>) -> io::Result<libc::c_int> {
    let command = match command {
        Command::Set => libc::F_OFD_SETLK,
        Command::SetWaiting => libc::F_OFD_SETLKW,
        Command::Get => libc::F_OFD_GETLK,
    };
    // SAFETY: a flock of zeroes is a valid value.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = bytes.start;
    lock.l_len = bytes.end - bytes.start;
    // SAFETY: the lock lives beyond the call, which reads and writes nothing else.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock.l_type.into()),
    }
}
