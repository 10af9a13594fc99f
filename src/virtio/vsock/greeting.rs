//! How a program of the host says to which port of the guest it wants to be connected: `CONNECT PORT` and a newline, answered by
//! `OK HOSTPORT` and a newline once the guest has accepted. Firecracker has the same protocol, so programs for it work here.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The longest line, with its newline.
const LINE_MAX: usize = "CONNECT 4294967295\n".len();

/// What a program has said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// The port of the guest.
    Port(u32),
    /// Not a whole line yet.
    Incomplete,
    /// Something else, or it has closed its socket.
    Wrong,
}

/// Reads the line, and nothing behind it: that is for the guest.
pub fn read(socket: &UnixStream) -> io::Result<Greeting> {
    let mut line = [0; LINE_MAX];
    let seen = receive(socket, &mut line, libc::MSG_PEEK)?;
    let (greeting, length) = parse(&line[..seen]);
    if let Greeting::Port(_) = greeting {
        // All of it is there, because it was seen.
        receive(socket, &mut line[..length], 0)?;
    }
    Ok(greeting)
}

fn receive(socket: &UnixStream, bytes: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of a live slice.
    let count = unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// What the first bytes of a connection mean, and how long the line is.
fn parse(bytes: &[u8]) -> (Greeting, usize) {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return match bytes.len() {
            1..LINE_MAX => (Greeting::Incomplete, 0),
            _ => (Greeting::Wrong, 0),
        };
    };
    let port = std::str::from_utf8(&bytes[..end])
        .ok()
        .and_then(|line| line.strip_prefix("CONNECT "))
        // u32's own parser takes a plus sign.
        .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|port| port.parse().ok());
    match port {
        Some(port) => (Greeting::Port(port), end + 1),
        None => (Greeting::Wrong, 0),
    }
}

/// What a program is told once it is connected.
pub fn answer(host_port: u32) -> Vec<u8> {
    format!("OK {host_port}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_line_names_a_port_and_anything_else_is_refused() {
        for (bytes, greeting) in [
            ("CONNECT 52\n", Greeting::Port(52)),
            ("CONNECT 4294967295\nmore", Greeting::Port(u32::MAX)),
            ("CONNECT 00000000052\n", Greeting::Wrong),
            ("CONNECT 0000000052\n", Greeting::Port(52)),
            ("CONNECT", Greeting::Incomplete),
            ("CONNECT 52", Greeting::Incomplete),
            ("GET / HTTP/1.1", Greeting::Incomplete),
            ("GET / HTTP/1.1\r\n", Greeting::Wrong),
            ("GET /a/longer/path HTTP/1.1", Greeting::Wrong),
            ("CONNECT 4294967296\n", Greeting::Wrong),
            ("CONNECT +52\n", Greeting::Wrong),
            ("CONNECT -1\n", Greeting::Wrong),
            ("CONNECT \n", Greeting::Wrong),
            ("CONNECT 52\r\n", Greeting::Wrong),
            ("connect 52\n", Greeting::Wrong),
            ("\n", Greeting::Wrong),
            ("", Greeting::Wrong),
        ] {
            let seen = &bytes.as_bytes()[..bytes.len().min(LINE_MAX)];
            assert_eq!(parse(seen).0, greeting, "{bytes:?}");
        }
    }

    #[test]
    fn what_follows_the_line_stays_in_the_socket() {
        let (mut program, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(read(&socket).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        program.write_all(b"CONN").unwrap();
        assert_eq!(read(&socket).unwrap(), Greeting::Incomplete);
        program.write_all(b"ECT 7\nCONNECT 8\n").unwrap();
        assert_eq!(read(&socket).unwrap(), Greeting::Port(7));
        drop(program);
        let mut rest = String::new();
        (&socket).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "CONNECT 8\n");
    }
}
