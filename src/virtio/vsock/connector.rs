//! A small process that connects to the sockets of the host's programs when the guest calls them.
//!
//! The process of the guest can reach no file by its name once it is confined, and Landlock forbids connecting to a path, too, from
//! version 9 on. If it could reach one directory, it could connect to everything there. So this process, which is made before,
//! takes a port's number and gives back a socket that is connected to `PATH_PORT`, and nothing else. It ends when the process of
//! the guest does, and takes the socket at PATH away then.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::config::User;
use crate::confine;

/// The longest path, so that `_` and any port fit behind it (unix(7)).
pub const PATH_MAX: usize = 107 - "_4294967295".len();

/// Bytes of a request: a port.
type Request = [u8; 4];
/// What comes back with a socket, and without one.
const CONNECTED: u8 = 1;
const REFUSED: u8 = 0;

/// The other process, as that of the guest sees it. Dropping this ends it.
pub struct Connector(UnixStream);

impl Connector {
    /// Starts the process, for the socket that was just made at `path`. To be called while there is no other thread. The
    /// process becomes one of `user`, if there is one.
    pub fn start(path: &Path, user: Option<User>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let work = Work::new(path)?;
        // SAFETY: the child has one thread, calls nothing but the allocator, which fork(2) leaves usable, and system calls, and
        // ends without handlers.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                work.carry_out(theirs.as_raw_fd(), user);
                // SAFETY: the call does not return.
                unsafe { libc::_exit(0) }
            }
            _ => Ok(Self(ours)),
        }
    }

    /// What becomes readable when an answer has come.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Asks for a connection to `PATH_PORT`. The answers come in the order of the requests. Fails if too many wait.
    pub fn ask(&self, port: u32) -> io::Result<()> {
        let request: Request = port.to_le_bytes();
        // It is taken whole or not at all. The standard library would call sendto(2), which the thread's filter does not allow.
        // SAFETY: the pointer and the length are those of a live array.
        match unsafe { libc::write(self.fd(), request.as_ptr().cast(), request.len()) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// The next answer: a connected socket, or none if nobody listens there, or if this process can open no more files. Fails if
    /// there is no answer, or no process.
    pub fn answer(&self) -> io::Result<Option<UnixStream>> {
        let mut byte = [REFUSED];
        match self.0.recv_with_fd(&mut byte) {
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, socket)) => Ok(socket.map(|file| UnixStream::from(OwnedFd::from(file)))),
            // The answer has come, but the kernel has dropped the socket that was with it.
            Err(error) if error.errno() == libc::ENOBUFS => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the process works with. All memory is allocated before the process is made.
struct Work {
    path: CString,
    /// The socket at `path`, by device and inode.
    made: (u64, u64),
    address: libc::sockaddr_un,
    /// Where in `sun_path` the port begins.
    end: usize,
}

impl Work {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = path.symlink_metadata()?;
        let bytes = path.as_os_str().as_bytes();
        // SAFETY: all zeroes is a valid value.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let too_long = || io::Error::other(format!("its path is longer than {PATH_MAX} bytes"));
        if bytes.len() > PATH_MAX {
            return Err(too_long());
        }
        for (place, byte) in address.sun_path.iter_mut().zip(bytes.iter().chain(b"_")) {
            *place = *byte as libc::c_char;
        }
        Ok(Self {
            path: CString::new(bytes)?,
            made: (metadata.dev(), metadata.ino()),
            address,
            end: bytes.len() + 1,
        })
    }

    /// The process: it answers requests at `socket` until the other end is closed.
    fn carry_out(mut self, socket: RawFd, user: Option<User>) {
        const CALLS: RawFd = 0;
        // SAFETY: plain numbers. Nothing here uses another descriptor.
        let is_alone = unsafe {
            // Signals for the guest's terminal and its job are not for this process.
            libc::setsid();
            libc::prctl(libc::PR_SET_NAME, c"vsock-connect".as_ptr());
            libc::dup2(socket, CALLS) != -1 && libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) != -1
        };
        if !is_alone || user.is_some_and(|user| confine::become_user(user.user, user.group).is_err()) {
            return;
        }
        confine::restrict_connector();
        let mut request = Request::default();
        while receive(CALLS, &mut request) {
            let socket = self.connect(u32::from_le_bytes(request));
            if !send(CALLS, socket) {
                break;
            }
        }
        self.remove();
    }

    /// Connects to `PATH_PORT`. A socket whose program is too slow to accept counts as one where nobody listens.
    fn connect(&mut self, port: u32) -> Option<RawFd> {
        let mut digits = [0; 10];
        let digits = decimal(port, &mut digits);
        let name = &mut self.address.sun_path[self.end..];
        name.fill(0);
        for (place, digit) in name.iter_mut().zip(digits) {
            *place = *digit as libc::c_char;
        }
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the address is a whole sockaddr_un, whose path ends with a zero, because `PATH_MAX` leaves room for it.
        unsafe {
            let socket = libc::socket(libc::AF_UNIX, kind, 0);
            if socket == -1 {
                return None;
            }
            let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
            if libc::connect(socket, (&raw const self.address).cast(), length) == -1 {
                libc::close(socket);
                return None;
            }
            Some(socket)
        }
    }

    /// Takes the socket at the path away, unless something else is there now.
    fn remove(&self) {
        // SAFETY: the path ends with a zero, and the structure is written whole by the kernel.
        unsafe {
            let mut status: libc::stat = std::mem::zeroed();
            let path = self.path.as_ptr();
            if libc::syscall(libc::SYS_lstat, path, &raw mut status) == 0
                && (status.st_dev, status.st_ino) == self.made
            {
                libc::syscall(libc::SYS_unlink, path);
            }
        }
    }
}

/// Waits for a request. Returns whether there is one.
fn receive(calls: RawFd, request: &mut Request) -> bool {
    let mut length = 0;
    while length < request.len() {
        let rest = &mut request[length..];
        // SAFETY: the pointer and the length are those of a live slice.
        match unsafe { libc::read(calls, rest.as_mut_ptr().cast(), rest.len()) } {
            count @ 1.. => length += count as usize,
            _ => return false,
        }
    }
    true
}

/// Sends an answer, and closes its socket. Returns whether the other end takes answers.
fn send(calls: RawFd, socket: Option<RawFd>) -> bool {
    struct Calls(RawFd);
    impl ScmSocket for Calls {
        fn socket_fd(&self) -> RawFd {
            self.0
        }
    }
    let Some(socket) = socket else {
        return Calls(calls).send_with_fds(&[&[REFUSED][..]], &[]).is_ok();
    };
    let sent = Calls(calls).send_with_fd(&[CONNECTED][..], socket).is_ok();
    // SAFETY: the descriptor was opened here.
    unsafe { libc::close(socket) };
    sent
}

/// The digits of a number.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[first..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_does_not_arrive_is_a_refusal_and_the_next_one_arrives() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connector = Connector(ours);
        // The kernel drops descriptors for which the receiver has left no room, and says so by the same flag as when the
        // receiver can open no more files. That limit is the whole process's, so this test does not lower it.
        let sockets = [theirs.as_raw_fd(); 3];
        theirs.send_with_fds(&[&[CONNECTED][..]], &sockets).unwrap();
        theirs.send_with_fd(&[CONNECTED][..], theirs.as_raw_fd()).unwrap();
        assert!(connector.answer().unwrap().is_none());
        assert!(connector.answer().unwrap().is_some());
    }
}
