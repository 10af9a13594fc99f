//! An image in use is locked: by its one writer, or shared by readers.
//!
//! Twice: with flock(2), whose holder the host names, and with the locks by which QEMU keeps others off.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::qemu_locks;
use crate::plain_text::clean;

/// How often a lock that a dead process still has is tried, and how long after one another: 5 s, of which a host that
/// stood still itself takes nothing away.
const TRIES: u32 = 5000;
const PAUSE: Duration = Duration::from_millis(1);
/// How often one is whose holder is not found: proc(5) locks leaves out some while others come and go.
const TRIES_IF_UNKNOWN: u32 = 10;

/// What an image is locked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Somebody else has the file.
#[derive(Debug)]
pub struct Busy {
    holder: Option<u32>,
}

impl Busy {
    /// Whether it is this process that has it, by another descriptor.
    pub fn is_own(&self) -> bool {
        self.holder == Some(std::process::id())
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pid) = self.holder else {
            return formatter.write_str("another process");
        };
        write!(formatter, "process {pid}")?;
        match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => write!(formatter, " ({})", clean(name.trim())),
            Err(_) => Ok(()),
        }
    }
}

/// Locks `file`, which is at `path`, until it is closed.
pub fn lock(file: &File, path: &Path, access: Access) -> Result<(), Busy> {
    match lock_in_time(file, access) {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Busy { holder: holder(file) }),
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) => {
            log::warn!("cannot lock disk image {path:?}: {error}");
            Ok(())
        }
    }
}

/// Lets go of all locks that `file` has.
pub fn unlock(file: &File) -> io::Result<()> {
    qemu_locks::unlock(file)?;
    file.unlock()
}

/// A process that was killed has its files, and so its locks, until the host's kernel has finished what it had asked for;
/// with io_uring that is after its parent has heard of its end. Nothing tells when: such a lock is tried again.
fn lock_in_time(file: &File, access: Access) -> Result<(), TryLockError> {
    let mut unknown = 0;
    for _ in 1..TRIES {
        let locked = try_lock(file, access);
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
    try_lock(file, access)
}

fn try_lock(file: &File, access: Access) -> Result<(), TryLockError> {
    match access {
        Access::Read => file.try_lock_shared(),
        Access::Write => file.try_lock(),
    }?;
    qemu_locks::try_lock(file, access).inspect_err(|_| {
        // Whoever is about to be refused keeps nobody else off.
        if let Err(error) = unlock(file) {
            log::debug!("cannot unlock a disk image: {error}");
        }
    })
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

/// Who else has a lock on `file`.
fn holder(file: &File) -> Option<u32> {
    holder_by_list(file).or_else(|| holder_by_descriptors(file))
}

/// By proc(5) locks: `1: FLOCK  ADVISORY  WRITE 1234 08:01:56789 0 EOF`. Locks of QEMU's kind have no process there.
fn holder_by_list(file: &File) -> Option<u32> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip_while(|field| *field != "FLOCK");
        let (pid, place) = (fields.nth(3)?, fields.next()?);
        // Devices are left out: some file systems show another one here than to stat(2).
        place.ends_with(&inode).then(|| pid.parse().ok())?
    })
}

/// By the descriptors of all processes, as far as this one may see them: proc(5), /proc/PID/fdinfo/FD shows the locks of
/// an open file.
fn holder_by_descriptors(file: &File) -> Option<u32> {
    let wanted = file.metadata().ok()?;
    let is_other_lock = |pid: u32, descriptor: &fs::DirEntry| {
        let number = descriptor.file_name();
        if pid == std::process::id() && number == *file.as_raw_fd().to_string() {
            return false;
        }
        let path = descriptor.path();
        let found =
            fs::metadata(&path).is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()));
        let info = Path::new("/proc")
            .join(pid.to_string())
            .join("fdinfo")
            .join(number);
        found && fs::read_to_string(info).is_ok_and(|info| info.contains("OFDLCK"))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.find(|pid: &u32| {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .is_ok_and(|descriptors| descriptors.flatten().any(|entry| is_other_lock(*pid, &entry)))
    })
}

#[cfg(test)]
#[path = "lock_test.rs"]
mod tests;
