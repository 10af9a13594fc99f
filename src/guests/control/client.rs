use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::Answer;
use super::reason;
use crate::console::{For, wait};
use crate::unix_socket;

/// How long a guest's process may take to answer where a person says nothing else. A pause waits for what the host is doing for the guest's disks.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read.
const ANSWER_MAX: usize = 64 << 10;

/// Sends a request to the guest's process at this socket, and gives what it answers within `patience`.
pub fn ask(socket: &Path, method: &str, path: &str, patience: Duration) -> io::Result<Value> {
    let mut stream = connect(socket)?;
    // So little fits into the socket at once.
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: coracle\r\n\r\n").as_bytes())?;
    let answer = read_to_end(stream, Instant::now() + patience)?;
    match Answer::of(&answer) {
        Some(Answer { status: 200, body }) => Ok(body),
        Some(Answer { body, .. }) => Err(reason(&body)),
        None => Err(io::Error::other("its answer cannot be understood")),
    }
}

/// Whether a process listens at this socket, even if it takes no more connections.
pub fn is_served(socket: &Path) -> bool {
    match connect(socket) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Connects to a guest's process. Nothing ever waits for it, as [`unix_socket::connect`] says.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    unix_socket::connect(&unix_socket::address(path)?)
}

fn read_to_end(mut stream: UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; ANSWER_MAX];
    let mut length = 0;
    while length < bytes.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if let [false] = wait([Some(For::Reading(stream.as_fd()))], Some(left))? {
            return Err(io::Error::other("it does not answer"));
        }
        match stream.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}
