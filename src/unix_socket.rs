//! Unix sockets (unix(7)) where the standard library would wait, or does not say enough.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The address of the socket at this path, which is shorter than `sun_path`, so that it ends with NUL.
pub fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let path = path.as_os_str().as_bytes();
    if path.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (place, &byte) in address.sun_path.iter_mut().zip(path) {
        *place = byte as libc::c_char;
    }
    Ok(address)
}

/// Connects to the listener at this address. Neither this nor reading nor writing ever waits: a listener that takes no more
/// connections is an error of the kind `WouldBlock`. Allocates nothing.
pub fn connect(address: &libc::sockaddr_un) -> io::Result<UnixStream> {
    // SAFETY: a system call without pointers; the descriptor is ours alone.
    let socket = unsafe {
        let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        match libc::socket(libc::AF_UNIX, flags, 0) {
            -1 => return Err(io::Error::last_os_error()),
            socket => OwnedFd::from_raw_fd(socket),
        }
    };
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the address is of this size.
    match unsafe { libc::connect(socket.as_raw_fd(), (&raw const *address).cast(), length) } {
        0 => Ok(socket.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The process that listened at the socket to which `stream` has connected, as the kernel noted it then: its number, and a
/// descriptor of it, or of a later process with that number. Fails with ESRCH if there is none any more.
pub fn listener(stream: &UnixStream) -> io::Result<(libc::pid_t, OwnedFd)> {
    // SAFETY: zeroes are valid credentials, and the call writes as many bytes as they have.
    let (credentials, result) = unsafe {
        let mut credentials: libc::ucred = mem::zeroed();
        let mut size = size_of::<libc::ucred>() as libc::socklen_t;
        let place = (&raw mut credentials).cast();
        let option = libc::SO_PEERCRED;
        let result = libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, option, place, &mut size);
        (credentials, result)
    };
    let number = match (result, credentials.pid) {
        (0, number @ 1..) => number,
        (0, _) => return Err(io::Error::other("it runs in another namespace of processes")),
        _ => return Err(io::Error::last_os_error()),
    };
    // SAFETY: a system call without pointers; it returns a descriptor that is ours alone.
    match unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: as above.
        descriptor => Ok((number, unsafe { OwnedFd::from_raw_fd(descriptor as i32) })),
    }
}

/// Waits until the other end is closed, for `patience` at most. Returns whether it is.
pub fn hangs_up(stream: &UnixStream, patience: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one entry, as it says.
    match unsafe { libc::poll(&mut entry, 1, patience.as_millis() as libc::c_int) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(entry.revents & (libc::POLLHUP | libc::POLLERR) != 0),
    }
}
