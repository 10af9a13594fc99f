use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{Answer, Switch};
use crate::console::{For, wait};
use crate::unix_socket;

/// How long a guest's process may take to answer where a person says nothing else. A pause waits for what the host is doing for the guest's disks.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read.
const ANSWER_MAX: usize = 64 << 10;

/// Bytes of a console's past that are read. A guest's process keeps less.
const PAST_MAX: u64 = 1 << 20;

/// A guest's console, as a client that is attached to it has it.
pub struct Attachment {
    /// What is printed from now on, and what is typed. It does not block.
    pub socket: UnixStream,
    /// What was printed before, as far as it is kept.
    pub past: Vec<u8>,
}

/// Sends a request to the guest's process at this socket, and gives what it answers within `patience`.
pub fn ask(socket: &Path, method: &str, path: &str, patience: Duration) -> io::Result<Value> {
    let stream = send(socket, method, path)?;
    let answer = read_to_end(stream, Instant::now() + patience)?;
    match Answer::of(&answer) {
        Some(Answer { status: 200, body }) => Ok(body),
        answer => Err(reason(answer)),
    }
}

/// Makes a connection to the guest's process one to the agent in the guest. That may end at any time, also at once.
pub fn call_agent(mut stream: UnixStream, patience: Duration) -> io::Result<UnixStream> {
    request(&mut stream, "POST", "/exec")?;
    let deadline = Instant::now() + patience;
    wait_for_more(&stream, deadline)?;
    // What the agent says may follow, and is left to whoever speaks with it.
    let expected = Answer::upgrade().bytes();
    let mut head = vec![0; expected.len()];
    // SAFETY: the buffer is writable for its whole length.
    let count = unsafe {
        libc::recv(
            stream.as_raw_fd(),
            head.as_mut_ptr().cast(),
            head.len(),
            libc::MSG_PEEK,
        )
    };
    // It comes whole, because it was sent whole.
    if usize::try_from(count) == Ok(expected.len()) && head == expected {
        stream.read_exact(&mut head)?;
        return Ok(stream);
    }
    Err(reason(Answer::of(&read_to_end(stream, deadline)?)))
}

/// Attaches to the console of the guest whose process is at this socket.
pub fn attach(socket: &Path, patience: Duration) -> io::Result<Attachment> {
    let mut socket = send(socket, "POST", "/console")?;
    let deadline = Instant::now() + patience;
    let mut bytes = Vec::new();
    let (past, mut bytes) = loop {
        let goes_on = read_more(&mut socket, &mut bytes, ANSWER_MAX, deadline)?;
        if let Some((Switch { past }, begin)) = Switch::of(&bytes) {
            break (past, begin.to_vec());
        }
        if !goes_on || bytes.len() == ANSWER_MAX {
            return Err(reason(Answer::of(&bytes)));
        }
    };
    if past > PAST_MAX {
        return Err(reason(None));
    }
    let past = past as usize;
    while bytes.len() < past && read_more(&mut socket, &mut bytes, past, deadline)? {}
    Ok(Attachment { socket, past: bytes })
}

/// Connects, and sends a request.
fn send(socket: &Path, method: &str, path: &str) -> io::Result<UnixStream> {
    let mut stream = connect(socket)?;
    request(&mut stream, method, path)?;
    Ok(stream)
}

fn request(stream: &mut UnixStream, method: &str, path: &str) -> io::Result<()> {
    // So little fits into the socket at once.
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: coracle\r\n\r\n").as_bytes())
}

/// What an answer says that is no success.
pub(super) fn reason(answer: Option<Answer>) -> io::Error {
    let Some(Answer { body, .. }) = answer else {
        return io::Error::other("its answer cannot be understood");
    };
    let reason = body
        .get("error")
        .and_then(Value::as_str)
        .unwrap_or("its answer has no reason");
    io::Error::other(crate::plain_text::clean(reason))
}

fn wait_for_more(stream: &UnixStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    match wait([Some(For::Reading(stream.as_fd()))], Some(left))? {
        [true] => Ok(()),
        [false] => Err(io::Error::other("it does not answer")),
    }
}

/// Whether a process listens at this socket, even if it takes no more connections.
pub fn is_served(socket: &Path) -> bool {
    match connect(socket) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Connects to a guest's process. Nothing ever waits for it, as [`unix_socket::connect`] says. As with all files of a guest's
/// directory, a link is not followed: whoever listens where it leads is not this guest's process.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    if fs::symlink_metadata(path)?.is_symlink() {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    unix_socket::connect(&unix_socket::address(path)?)
}

fn read_to_end(mut stream: UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_MAX && read_more(&mut stream, &mut bytes, ANSWER_MAX, deadline)? {}
    Ok(bytes)
}

/// Waits for bytes, and appends them, until there are `most`. False at the end of the stream.
fn read_more(
    stream: &mut UnixStream,
    bytes: &mut Vec<u8>,
    most: usize,
    deadline: Instant,
) -> io::Result<bool> {
    wait_for_more(stream, deadline)?;
    let length = bytes.len();
    bytes.resize(most, 0);
    let read = stream.read(&mut bytes[length..]);
    bytes.truncate(length + read.as_ref().copied().unwrap_or(0));
    match read {
        Ok(count) => Ok(count > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}
