//! An image in use is locked: by its one writer, or shared by readers.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::OpenError;

/// How often a lock that a dead process still has is tried, and how long after one another: 5 s, of which a host that
/// stood still itself takes nothing away.
const TRIES: u32 = 5000;
const PAUSE: Duration = Duration::from_millis(1);
/// How often one is whose holder is not found: proc(5) locks leaves out some while others come and go.
const TRIES_IF_UNKNOWN: u32 = 10;

/// Locks `file` until it is closed.
pub fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), OpenError> {
    match try_lock(file, read_only) {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: path.into(),
            holder: holder(file).map_or("another process".into(), |pid| format!("process {pid}")),
        }),
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) => {
            log::warn!("cannot lock disk image {path:?}: {error}");
            Ok(())
        }
    }
}

/// A process that was killed has its files, and so its locks, until the host's kernel has finished what it had asked for;
/// with io_uring that is after its parent has heard of its end. Nothing tells when: such a lock is tried again.
fn try_lock(file: &File, read_only: bool) -> Result<(), TryLockError> {
    let try_once = || match read_only {
        true => file.try_lock_shared(),
        false => file.try_lock(),
    };
    let mut unknown = 0;
    for _ in 1..TRIES {
        let locked = try_once();
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            return locked;
        }
        let holder = holder(file);
        unknown += u32::from(holder.is_none());
        if holder.is_some_and(|pid| !is_dead(pid)) || unknown > TRIES_IF_UNKNOWN {
            return locked;
        }
        thread::sleep(PAUSE);
    }
    try_once()
}

/// Whether there is no such process, or only its status is left for its parent: proc(5), /proc/PID/stat, `(NAME) STATE`.
fn is_dead(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_some_and(|(_, state)| state.starts_with(['Z', 'X'])),
        // Or it went while its status was read.
        Err(error) => error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH),
    }
}

/// Who has a lock on `file`, by proc(5) locks: `1: FLOCK  ADVISORY  WRITE 1234 08:01:56789 0 EOF`.
fn holder(file: &File) -> Option<u32> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip_while(|field| *field != "FLOCK");
        let (pid, place) = (fields.nth(3)?, fields.next()?);
        // Devices are left out: some file systems show another one here than to stat(2).
        place.ends_with(&inode).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
#[path = "lock_test.rs"]
mod tests;
