//! An image in use is locked: by its one writer, or shared by readers.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::OpenError;

/// Locks `file` until it is closed.
pub fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), OpenError> {
    let locked = match read_only {
        true => file.try_lock_shared(),
        false => file.try_lock(),
    };
    match locked {
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
