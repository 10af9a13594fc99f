//! Files that are locked by flock(2). The kernel gives the lock back when a process ends, however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Result};

/// Makes the file if it is not there, and waits until it is nobody else's. The file has this name when the lock is held: another
/// holder may have renamed or removed the one that was waited for.
pub(super) fn exclusive(path: &Path) -> Result<File> {
    loop {
        let file = open(path, true).map_err(Error::file("open", path))?;
        wait(|| file.lock()).map_err(Error::file("lock", path))?;
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// The file, locked, if it is there and nobody else's.
pub(super) fn try_exclusive(path: &Path) -> Result<Option<File>> {
    let file = match open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("open", path)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(is_at(&file, path)?.then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Error::file("lock", path)(error)),
    }
}

/// The file, to read, with a lock that others can have at the same time. None if it is not there.
pub(super) fn shared(path: &Path) -> Result<Option<File>> {
    loop {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("open", path)(error)),
        };
        wait(|| file.lock_shared()).map_err(Error::file("lock", path))?;
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).mode(0o600);
    options.open(path)
}

fn wait(lock: impl Fn() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn is_at(file: &File, path: &Path) -> Result<bool> {
    let file = file.metadata().map_err(Error::file("look at", path))?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (file.dev(), file.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file("look at", path)(error)),
    }
}
