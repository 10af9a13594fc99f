//! The socket to the host.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

/// The host's address, in every guest (vsock(7)).
const HOST: u32 = 2;

/// Calls the agent's port of the host.
pub fn call_host() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let connection = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    connect(
        connection.as_raw_fd(),
        &VsockAddr::new(HOST, coracle_agent_protocol::PORT),
    )?;
    Ok(connection)
}
