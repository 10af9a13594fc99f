//! The lock of a guest: the kernel knows whether the guest's process lives, and nobody has to remember it.
//!
//! Looking takes no lock, so any number of commands can look at the same time and are in nobody's way.

use std::fs::File;
use std::io;
use std::ops::Range;

use crate::byte_lock::{Command, call, is_taken};

/// The guest's process lives. In a directory that is no guest yet, somebody may also be about to remove it.
const HELD: Range<i64> = 0..1;
/// The guest is paused.
const PAUSED: Range<i64> = 1..2;

/// Takes the lock. False if somebody else has it.
pub fn take(file: &File) -> io::Result<bool> {
    match call(file, Command::Set, libc::F_WRLCK, HELD) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether somebody else has the lock.
pub fn is_held(file: &File) -> bool {
    is_taken(file, HELD).unwrap_or(false)
}

/// Waits until nobody has the lock.
pub fn wait(file: &File) -> io::Result<()> {
    call(file, Command::SetWaiting, libc::F_RDLCK, HELD)?;
    call(file, Command::Set, libc::F_UNLCK, HELD).map(drop)
}

/// Notes for others whether the guest is paused. To be called by the guest's process.
pub fn set_paused(file: &File, is_paused: bool) -> io::Result<()> {
    let kind = match is_paused {
        true => libc::F_WRLCK,
        false => libc::F_UNLCK,
    };
    call(file, Command::Set, kind, PAUSED).map(drop)
}

/// Whether the guest's process noted that the guest is paused.
pub fn is_paused(file: &File) -> bool {
    is_taken(file, PAUSED).unwrap_or(false)
}
