//! Locks on images in use: an image has one writer, or any number of readers, or a writer for each of its partitions.
//!
//! Each image has two kinds of lock. The one of flock(2) is between processes of Coracle, and the host tells who holds
//! it. The other kind is the one that QEMU uses, so that QEMU and Coracle keep off each other's images.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::loop_device::{self, Under};
use super::qemu_locks;
pub use super::qemu_locks::Access;
use crate::plain_text::clean;

/// How often the lock of a dead process is tried again, and how long the pauses between the tries are: at least 5 s in
/// all. Tries are counted, and not time, because the host itself may stand still for longer than that.
const TRIES: u32 = 5000;
const PAUSE: Duration = Duration::from_millis(1);
/// How often a lock whose holder is not found is tried again. /proc/locks can leave a lock out while other locks come
/// and go.
const TRIES_IF_UNKNOWN: u32 = 10;

/// The file is locked by somebody else.
#[derive(Debug)]
pub struct Busy {
    holder: Option<u32>,
}

impl Busy {
    /// Whether this process itself holds the lock, through another descriptor.
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

/// A file whose locks, and those of the other descriptors of the same image, are released when it is dropped. Closing alone is
/// not enough: the file stays open for a moment in a ring that the kernel takes apart in the background, or in a process that
/// was forked just now.
#[derive(Debug)]
pub struct Locked {
    file: File,
    /// If the file is a loop device, the files under it; if it is under loop devices, these.
    others: Vec<File>,
}

impl From<File> for Locked {
    fn from(file: File) -> Self {
        let others = Vec::new();
        Self { file, others }
    }
}

impl Locked {
    /// Keeps another descriptor of the same image open, with QEMU's kind of lock, until this is dropped.
    pub fn keep(&mut self, other: File, access: Access) -> Result<(), Busy> {
        if let Err(TryLockError::WouldBlock) = qemu_locks::try_lock(&other, access) {
            return Err(Busy {
                holder: holder(&other),
            });
        }
        self.others.push(other);
        Ok(())
    }
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.others.iter().chain([&self.file]).for_each(unlock);
    }
}

/// Locks `file`, which is at `path`. If it is a loop device, locks the file under it as well, so that nobody uses that file
/// by its own name meanwhile.
pub fn lock(file: File, path: &Path, access: Access) -> Result<Locked, Busy> {
    lock_one(&file, path, access)?;
    let mut locked = Locked::from(file);
    for (Under { part, .. }, file) in loop_device::files_under(&locked) {
        let access = match access {
            Access::Write => part.map_or(access, |part| Access::WritePart { of: part.of }),
            access => access,
        };
        match file {
            Ok(under) => {
                lock_one(&under, path, access)?;
                locked.others.push(under);
            }
            Err(error) => log::warn!("cannot lock the file under loop device {path:?}: {error}"),
        }
    }
    Ok(locked)
}

fn lock_one(file: &File, path: &Path, access: Access) -> Result<(), Busy> {
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

fn unlock(file: &File) {
    for done in [qemu_locks::unlock(file), file.unlock()] {
        if let Err(error) = done {
            log::debug!("cannot unlock a disk image: {error}");
        }
    }
}

/// Locks `file`, and waits for the lock of a process that is dead. A killed process keeps its files open, and so its
/// locks, until the host's kernel has finished the requests that it had made. With io_uring this can be after its
/// parent was told of its end, and there is no event to wait for. So the lock is tried again.
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
        // Only of those who share this lock does QEMU's kind tell who writes what.
        Access::Read | Access::WritePart { .. } => file.try_lock_shared(),
        Access::Write => file.try_lock(),
    }?;
    match qemu_locks::try_lock(file, access) {
        Err(TryLockError::WouldBlock) => {
            // This process is about to be refused, so it should not keep others off meanwhile.
            unlock(file);
            Err(TryLockError::WouldBlock)
        }
        // A file system can have locks of the one kind and none of the other.
        Err(TryLockError::Error(error)) => {
            log::debug!("no locks of QEMU's kind here: {error}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Whether the process does not exist, or has ended and only waits for its parent to ask for its status. /proc/PID/stat
/// has the state behind the name: `(NAME) STATE`.
fn is_dead(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_some_and(|(_, state)| state.starts_with(['Z', 'X'])),
        // ESRCH: it ended while its status was being read.
        Err(error) => error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH),
    }
}

/// The process that holds a lock on `file`, besides this call's own descriptor.
fn holder(file: &File) -> Option<u32> {
    holder_by_list(file).or_else(|| holder_by_descriptors(file))
}

/// Finds it in /proc/locks. Locks of QEMU's kind have no process ID there.
fn holder_by_list(file: &File) -> Option<u32> {
    holder_in(&fs::read_to_string("/proc/locks").ok()?, &place(file)?)
}

/// Finds the holder of a lock in `locks`, which is the text of /proc/locks: its lines are like
/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:56789 0 EOF`.
fn holder_in(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip_while(|field| *field != "FLOCK");
        let (pid, locked) = (fields.nth(3)?, fields.next()?);
        (locked == place).then(|| pid.parse().ok())?
    })
}

/// Device and inode of a file as /proc/locks shows them: `08:01:56789`.
fn place(file: &File) -> Option<String> {
    let metadata = file.metadata().ok()?;
    // Some file systems, btrfs for example, tell another device in stat(2) than the one of the mount, which is shown here.
    // A file in memory has no mount of which the process knows.
    let device = device_of_mount(file).unwrap_or_else(|| metadata.dev());
    let (major, minor) = (libc::major(device), libc::minor(device));
    Some(format!("{major:02x}:{minor:02x}:{}", metadata.ino()))
}

/// The device of the mount that the file is in: /proc/self/fdinfo/FD has the number of the mount, and the lines of
/// /proc/self/mountinfo are like `36 35 98:0 /root /mount-point ...`, with that number first.
fn device_of_mount(file: &File) -> Option<u64> {
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = information
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let is_it = fields.next()? == mount.trim();
        let (major, minor) = fields.nth(1).filter(|_| is_it)?.split_once(':')?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Finds it among the descriptors of all processes, as far as this process may see them. /proc/PID/fdinfo/FD shows the
/// locks of an open file, in the form of /proc/locks.
fn holder_by_descriptors(file: &File) -> Option<u32> {
    let place = place(file)?;
    let is_lock = |line: &str| line.contains("OFDLCK") && line.split_whitespace().any(|field| field == place);
    let own = file.as_raw_fd().to_string();
    let has_lock = |pid: u32, descriptor: &fs::DirEntry| {
        let is_own = pid == std::process::id() && descriptor.file_name() == *own;
        !is_own && fs::read_to_string(descriptor.path()).is_ok_and(|info| info.lines().any(is_lock))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.find(|pid: &u32| {
        fs::read_dir(format!("/proc/{pid}/fdinfo"))
            .is_ok_and(|descriptors| descriptors.flatten().any(|entry| has_lock(*pid, &entry)))
    })
}

#[cfg(test)]
#[path = "lock_test.rs"]
mod tests;
