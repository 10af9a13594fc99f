//! Makes the socket at which programs of the host call the guest. One that a run left behind is replaced.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
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
    let _turn = take_turn(path).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => is_in_use(),
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

/// Starts that want the same path take turns, because one that finds a socket without a listener must not remove the one that
/// another has made in its place since. Holds the turn until the result is dropped. Fails with `AddrInUse` if another has it. A name
/// without a file (unix(7)) is the lock: the kernel gives it back, and nothing is left anywhere.
fn take_turn(path: &Path) -> io::Result<UnixListener> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = fs::metadata(folder)?;
    let mut name = DefaultHasher::new();
    path.file_name().hash(&mut name);
    let turn = format!(
        "coracle-vsock-{:x}-{:x}-{:x}",
        folder.dev(),
        folder.ino(),
        name.finish()
    );
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(turn)?)
}

/// Whether the run to whose socket `stream` has connected has ended, and its connector has removed the socket now.
fn is_left_behind(stream: &UnixStream) -> io::Result<bool> {
    let has_ended = match unix_socket::listener(stream) {
        Ok((_, process)) => wait([Some(For::Reading(process.as_fd()))], Some(Duration::ZERO))? == [true],
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    };
    Ok(has_ended && unix_socket::hangs_up(stream, PATIENCE)?)
}
