//! The sockets to the host.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use coracle_agent_protocol::{PORT, READY_PORT};
use nix::errno::Errno;
use nix::libc::VMADDR_CID_ANY;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, getpeername, listen,
    socket,
};

/// The host's address, in every guest (vsock(7)).
const HOST: u32 = 2;
/// So many calls of the host may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Calls the agent's port of the host.
pub fn call_host() -> nix::Result<OwnedFd> {
    call(PORT)
}

/// Tells the host that the agent listens. False if there is no device yet by which the host could be called.
pub fn tell_that_it_listens() -> bool {
    // The call itself tells it, and is refused.
    !matches!(
        call(READY_PORT),
        Err(Errno::ENODEV | Errno::ENETUNREACH | Errno::EADDRNOTAVAIL | Errno::ESOCKTNOSUPPORT)
    )
}

fn call(port: u32) -> nix::Result<OwnedFd> {
    let connection = stream(SockFlag::empty())?;
    connect(connection.as_raw_fd(), &VsockAddr::new(HOST, port))?;
    Ok(connection)
}

fn stream(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Vsock,
        SockType::Stream,
        flags | SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// Where the host calls the agent.
pub struct Listener(OwnedFd);

impl Listener {
    pub fn new() -> io::Result<Self> {
        let socket = stream(SockFlag::SOCK_NONBLOCK)?;
        bind(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, PORT))?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(Self(socket))
    }

    /// Accepts a call of the host. Nothing if it has gone already, or if a program of the guest calls.
    pub fn accept(&self) -> nix::Result<Option<OwnedFd>> {
        let connection = match accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: the kernel has just made the descriptor, and nobody else owns it.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED | Errno::ECONNRESET) => return Ok(None),
            Err(why) => return Err(why),
        };
        let caller = getpeername::<VsockAddr>(connection.as_raw_fd());
        Ok(caller
            .is_ok_and(|caller| caller.cid() == HOST)
            .then_some(connection))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
