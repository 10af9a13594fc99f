//! A small process that connects to the sockets of the host's programs when the guest calls them.
//!
//! The process of the guest can reach no file by its name once it is confined, and Landlock forbids connecting to a path, too, from
//! version 9 on. If it could reach one directory, it could connect to everything there. So this process, which is made before,
//! takes a port's number and gives back a socket that is connected to `PATH_PORT`, and nothing else.
//!
//! It ends when the process of the guest does, and takes the socket at PATH away then. Until it has done that it keeps the listener
//! open, and a new run takes no socket for its own that has one (listener.rs). So it cannot remove the socket of another run.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::OpenError;
use crate::config::{Confine, User};
use crate::confine::{self, Layer};
use crate::unix_socket;

/// The longest path, so that `_` and any port fit behind it (unix(7)).
pub const PATH_MAX: usize = 107 - "_4294967295".len();

/// Bytes of a request: a port.
type Request = [u8; 4];
/// What comes back with a socket, and without one.
const CONNECTED: u8 = 1;
const REFUSED: u8 = 0;
/// What comes first: the process is ready, or it has failed, or is not confined as it has to be. Then words say why.
const READY: u8 = 2;
const FAILED: u8 = 3;
const NOT_CONFINED: u8 = 4;

/// The other process, as that of the guest sees it. Dropping this ends it.
pub struct Connector(UnixStream);

impl Connector {
    /// Starts the process, for the socket of `listener` that was just made at `path`, and waits until it is ready. To be called while
    /// there is no other thread. The process becomes one of `user`, if there is one, and is confined as far as this host can; if
    /// `confine` requires all of that, it fails otherwise.
    pub fn start(
        path: &Path,
        listener: &UnixListener,
        user: Option<User>,
        confine: Confine,
    ) -> Result<Self, OpenError> {
        let start = || -> io::Result<Self> {
            let (ours, theirs) = UnixStream::pair()?;
            let work = Work::new(path)?;
            // SAFETY: the child has one thread, calls nothing but the allocator, which fork(2) leaves usable, and system calls,
            // and ends without handlers.
            match unsafe { libc::fork() } {
                -1 => Err(io::Error::last_os_error()),
                0 => {
                    work.carry_out(theirs.as_raw_fd(), listener.as_raw_fd(), user, confine);
                    // SAFETY: the call does not return.
                    unsafe { libc::_exit(0) }
                }
                _ => Ok(Self(ours)),
            }
        };
        let connector = start().map_err(OpenError::Connector)?;
        connector.wait_until_ready()?;
        Ok(connector)
    }

    /// One whose answers come from the other end of this socket, which does not block.
    #[cfg(fuzzing)]
    pub fn of(socket: UnixStream) -> Self {
        Self(socket)
    }

    fn wait_until_ready(&self) -> Result<(), OpenError> {
        let mut said = Vec::new();
        let mut first = [0];
        let mut read = || -> io::Result<u8> {
            (&self.0).read_exact(&mut first)?;
            if first[0] != READY {
                (&self.0).read_to_end(&mut said)?;
            }
            self.0.set_nonblocking(true)?;
            Ok(first[0])
        };
        let kind = read().map_err(OpenError::Connector)?;
        let words = String::from_utf8_lossy(&said).into_owned();
        match kind {
            READY => Ok(()),
            NOT_CONFINED => Err(OpenError::NotConfined(words)),
            _ => Err(OpenError::Connector(io::Error::other(words))),
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

    /// The next answer: a connected socket, which does not block, or none if nobody listens there, or if this process can open no more
    /// files. Fails if there is no answer, or no process.
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
        let mut prefix = path.as_os_str().to_owned();
        prefix.push("_");
        Ok(Self {
            path: CString::new(bytes)?,
            made: (metadata.dev(), metadata.ino()),
            address: unix_socket::address(Path::new(&prefix))?,
            end: prefix.len(),
        })
    }

    /// The process: it answers requests at `socket` until the other end is closed.
    fn carry_out(mut self, socket: RawFd, listener: RawFd, user: Option<User>, confine: Confine) {
        const CALLS: RawFd = 0;
        const LISTENER: RawFd = 1;
        // SAFETY: plain numbers. Nothing here uses another descriptor.
        let is_alone = unsafe {
            // Signals for the guest's terminal and its job are not for this process.
            libc::setsid();
            libc::prctl(libc::PR_SET_NAME, c"vsock-connect".as_ptr());
            libc::dup2(socket, CALLS) != -1
                && libc::dup2(listener, LISTENER) != -1
                && libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0) != -1
        };
        if !is_alone {
            return;
        }
        let prepared = prepare(user, confine);
        let said = match &prepared {
            Ok(()) => say(CALLS, READY, ""),
            Err((why, words)) => say(CALLS, *why, words),
        };
        if prepared.is_ok() && said {
            let mut request = Request::default();
            while receive(CALLS, &mut request) {
                let socket = self.connect(u32::from_le_bytes(request));
                if !send(CALLS, socket) {
                    break;
                }
            }
        }
        self.remove();
    }

    /// Connects to `PATH_PORT`. A socket whose program is too slow to accept counts as one where nobody listens.
    fn connect(&mut self, port: u32) -> Option<UnixStream> {
        let mut digits = [0; 10];
        let digits = decimal(port, &mut digits);
        // Any port, and the zero that ends the path, fit behind a path of `PATH_MAX` bytes.
        let name = &mut self.address.sun_path[self.end..];
        name.fill(0);
        for (place, digit) in name.iter_mut().zip(digits) {
            *place = *digit as libc::c_char;
        }
        unix_socket::connect(&self.address).ok()
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

/// The end of the socket by which the process of the guest is told something.
struct Calls(RawFd);

impl ScmSocket for Calls {
    fn socket_fd(&self) -> RawFd {
        self.0
    }
}

/// Sends an answer. Returns whether the other end takes answers.
fn send(calls: RawFd, socket: Option<UnixStream>) -> bool {
    match socket {
        Some(socket) => Calls(calls)
            .send_with_fd(&[CONNECTED][..], socket.as_raw_fd())
            .is_ok(),
        None => say(calls, REFUSED, ""),
    }
}

/// Sends words. Returns whether the other end takes them.
fn say(calls: RawFd, kind: u8, words: &str) -> bool {
    Calls(calls)
        .send_with_fds(&[&[kind], words.as_bytes()], &[])
        .is_ok()
}

/// Becomes one of `user`, and is confined. If that fails, says how and why.
fn prepare(user: Option<User>, confine: Confine) -> Result<(), (u8, String)> {
    if let Some(user) = user {
        let become_user = confine::become_user(user.user, user.group);
        become_user.map_err(|error| {
            let words = format!(
                "cannot become user and group {user}: {error} (only root can; anybody else leaves --host-user out)"
            );
            (FAILED, words)
        })?;
    }
    // What is missing is missing in the process of the guest, too, which says so where it is not required.
    let layers = confine::restrict_connector();
    let missing: Vec<&Layer> = layers.iter().filter(|layer| layer.missing().is_some()).collect();
    match confine == Confine::Require && !missing.is_empty() {
        true => Err((
            NOT_CONFINED,
            missing.iter().map(|layer| format!("  {layer}\n")).collect(),
        )),
        false => Ok(()),
    }
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
    use std::thread;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

    use super::*;

    /// Has a call fail in this thread, and in processes that it makes.
    fn refuse(call: libc::c_long) {
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let rules = [(call, vec![])].into();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::x86_64).unwrap();
        apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
    }

    #[test]
    fn a_host_that_cannot_confine_the_process_is_an_error_where_that_is_required() {
        let start = |confine| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let listener = UnixListener::bind(&path).unwrap();
            Connector::start(&path, &listener, None, confine).map(drop)
        };
        start(Confine::Require).unwrap();
        let elsewhere = thread::spawn(move || {
            refuse(libc::SYS_capset);
            (start(Confine::Auto), start(Confine::Require))
        });
        let (as_far_as_it_can, required) = elsewhere.join().unwrap();
        as_far_as_it_can.unwrap();
        let error = required.unwrap_err().to_string();
        assert!(
            error.contains("--confine require") && error.contains("privileges"),
            "{error}"
        );
    }

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
