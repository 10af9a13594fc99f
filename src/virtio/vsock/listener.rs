//! Makes the socket at which programs of the host call the guest. One that a run left behind is replaced.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::OpenError;
use super::connector::PATH_MAX;
use crate::console::{For, wait};
use crate::unix_socket;

/// How long the end of a run may take whose process has ended. Its second process, the connector, only has to remove the socket.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is tried again after what was in the way has gone.
const TRIES: usize = 8;
const IN_USE: &str = " (another program listens there: choose another path)";
const NOT_OURS: &str = " (starts take turns by a file beside it, .coracle.NAME.lock, which is something else there: choose a folder that is yours, or remove it)";

/// Makes the socket at `path`. One that nobody listens at any more is replaced, but nothing else is.
pub fn listen(path: &Path) -> Result<UnixListener, OpenError> {
    let failed = |source: io::Error, hint| OpenError::Socket {
        path: path.into(),
        source,
        hint,
    };
    let is_in_use = || failed(ErrorKind::AddrInUse.into(), IN_USE);
    if path.as_os_str().len() > PATH_MAX {
        let hint = " (it may have 96 bytes: choose a shorter path)";
        return Err(failed(ErrorKind::InvalidFilename.into(), hint));
    }
    let _turn = Turn::take(path).map_err(|error| match error.raw_os_error() {
        None => is_in_use(),
        Some(libc::EACCES | libc::ELOOP | libc::EISDIR | libc::ENXIO | libc::EEXIST) => {
            failed(error, NOT_OURS)
        }
        _ => failed(error, ""),
    })?;
    for _ in 0..TRIES {
        match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => (),
            bound => return bound.map_err(|error| failed(error, "")),
        }
        let is_socket = fs::symlink_metadata(path).map(|metadata| metadata.file_type().is_socket());
        // A listener whose program is stopped may have no room, so this must not wait for it.
        let found = unix_socket::address(path).and_then(|address| unix_socket::connect(&address));
        match (is_socket, found) {
            (Ok(true), Ok(stream)) if is_left_behind(&stream).unwrap_or(false) => (),
            (Ok(true), Ok(_)) => return Err(is_in_use()),
            (Ok(true), Err(error)) if error.kind() == ErrorKind::WouldBlock => return Err(is_in_use()),
            (Ok(true), Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error, "")),
                    _ => (),
                }
            }
            // It was removed in between.
            (Err(error), _) | (_, Err(error)) if error.kind() == ErrorKind::NotFound => (),
            _ => {
                let hint = " (there is something else: choose another path)";
                return Err(failed(ErrorKind::AlreadyExists.into(), hint));
            }
        }
    }
    Err(is_in_use())
}

/// The lock by which starts that want the same path take turns, because one that finds a socket without a listener must not remove the
/// one that another has made in its place since. It is of a file beside the path, so only who may make files there, and could take the
/// path itself, can be in the way. Dropping it removes the file. A file of that name with something in it is not one of these.
struct Turn {
    path: PathBuf,
    /// Locked as long as it is open.
    _file: File,
}

impl Turn {
    /// Fails without an error of the system's if another start has it.
    fn take(socket: &Path) -> io::Result<Self> {
        let mut name = OsString::from(".coracle.");
        name.push(socket.file_name().unwrap_or_default());
        name.push(".lock");
        let path = socket.with_file_name(name);
        for _ in 0..TRIES {
            // On NFS only a file that is open for writing can be locked (flock(2)).
            let mut options = File::options();
            options.write(true).create(true).truncate(false).mode(0o600);
            let file = options
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => (),
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Who had it before may have removed the file after it was opened here.
            let (locked, named) = (file.metadata()?, fs::symlink_metadata(&path));
            if !locked.is_file() || locked.len() > 0 || locked.nlink() > 1 {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
                return Ok(Self { path, _file: file });
            }
        }
        Err(ErrorKind::AddrInUse.into())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // What is left of it does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether the run to whose socket `stream` has connected has ended, and its connector has removed the socket now.
fn is_left_behind(stream: &UnixStream) -> io::Result<bool> {
    let has_ended = match unix_socket::listener(stream) {
        Ok((_, process)) => wait([Some(For::Reading(process.as_fd()))], Some(Duration::ZERO))? == [true],
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    };
    Ok(has_ended && unix_socket::hangs_up(stream, PATIENCE)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn lock_of(path: &Path) -> PathBuf {
        path.with_file_name(".coracle.socket.lock")
    }

    #[test]
    fn of_two_starts_one_has_the_turn_and_nothing_is_left_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let turn = Turn::take(&path).unwrap();
        let second = Turn::take(&path).err().map(|error| error.kind());
        assert_eq!(second, Some(ErrorKind::AddrInUse));
        assert!(matches!(
            listen(&path),
            Err(OpenError::Socket { hint: IN_USE, .. })
        ));
        drop(turn);
        assert!(!lock_of(&path).exists());
        let listener = listen(&path).unwrap();
        assert!(!lock_of(&path).exists());
        drop(listener);
        // One that was killed in its turn leaves the file.
        File::create(lock_of(&path)).unwrap();
        listen(&path).unwrap();
        assert!(!lock_of(&path).exists());
    }

    #[test]
    fn a_persons_file_in_place_of_the_lock_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        fs::write(lock_of(&path), "a person's").unwrap();
        assert!(matches!(
            listen(&path),
            Err(OpenError::Socket { hint: NOT_OURS, .. })
        ));
        assert_eq!(fs::read(lock_of(&path)).unwrap(), b"a person's");
    }

    #[test]
    fn a_lock_whose_file_is_gone_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _turn = Turn::take(&path).unwrap();
        fs::remove_file(lock_of(&path)).unwrap();
        Turn::take(&path).unwrap();
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        symlink(folder.path().join("elsewhere"), lock_of(&path)).unwrap();
        assert!(matches!(
            listen(&path),
            Err(OpenError::Socket { hint: NOT_OURS, .. })
        ));
        assert!(!folder.path().join("elsewhere").exists());
    }
}
