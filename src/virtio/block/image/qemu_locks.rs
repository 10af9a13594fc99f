//! Locks images in the way of QEMU (its block/file-posix.c), so that QEMU and Coracle keep off each other's images.
//!
//! For each thing that a process can do with an image there are two bytes of the file. A process that does the thing
//! holds a shared lock on the byte in the group that starts at [`DOES`]. A process that forbids others to do it holds a
//! shared lock on the byte in the group that starts at [`FORBIDS`]. After taking its own locks, each process looks for
//! locks of others that contradict them.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;

use crate::byte_lock::{Command, call, is_taken};

const DOES: i64 = 100;
const FORBIDS: i64 = 200;

/// The things that a process can do, as offsets in each group. Offset 2 is writing what is there already.
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Here begin the bytes for writing a part of the image, one for each loop device that has partitions. They are Coracle's own:
/// QEMU knows no parts.
const PARTS: i64 = 300;

/// Forbids others to write in any way, and to resize.
const FORBIDDEN: Range<i64> = FORBIDS + WRITE..FORBIDS + RESIZE + 1;

/// What the locks of an image permit its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// Writing to a partition of the loop device with this number, while others may write to other partitions of it.
    WritePart {
        of: u64,
    },
}

impl Access {
    /// The bytes for what this process does.
    fn does(self) -> Range<i64> {
        match self {
            Self::Read => DOES + READ..DOES + READ + 1,
            Self::Write | Self::WritePart { .. } => DOES + READ..DOES + WRITE + 1,
        }
    }

    /// The byte of those who write partitions of the same device.
    fn part(self) -> Option<Range<i64>> {
        let Self::WritePart { of } = self else { return None };
        let byte = PARTS.saturating_add_unsigned(of);
        Some(byte..byte.saturating_add(1))
    }

    /// The bytes on which no other process may have a lock: those for what is forbidden to others, and those for what
    /// others forbid. One range is enough for both, because no byte between the two groups is in use.
    fn contradictions(self) -> Range<i64> {
        match self {
            Self::Read => DOES + WRITE..FORBIDS + READ + 1,
            Self::Write | Self::WritePart { .. } => DOES + WRITE..FORBIDS + WRITE + 1,
        }
    }
}

/// Takes the locks for `access`, and fails if locks of others contradict them. Its own locks then stay until
/// [`unlock`].
pub fn try_lock(file: &File, access: Access) -> Result<(), TryLockError> {
    take(file, access.does())?;
    take(file, FORBIDDEN)?;
    let part = access.part();
    // Whoever writes a partition has made sure that others use nothing but partitions of the same device, and keeps them from
    // it. So if one writer has this byte, all have it.
    let is_among_parts = match &part {
        Some(part) => is_taken(file, part.clone()).map_err(TryLockError::Error)?,
        None => false,
    };
    if !is_among_parts && is_taken(file, access.contradictions()).map_err(TryLockError::Error)? {
        return Err(TryLockError::WouldBlock);
    }
    part.map_or(Ok(()), |part| take(file, part))
}

fn take(file: &File, bytes: Range<i64>) -> Result<(), TryLockError> {
    let taken = call(file, Command::Set, libc::F_RDLCK, bytes);
    taken.map(drop).map_err(|error| match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => TryLockError::WouldBlock,
        _ => TryLockError::Error(error),
    })
}

/// Releases all of them.
pub fn unlock(file: &File) -> io::Result<()> {
    call(file, Command::Set, libc::F_UNLCK, 0..i64::MAX).map(drop)
}

#[cfg(test)]
#[path = "qemu_locks_test.rs"]
pub mod tests;
