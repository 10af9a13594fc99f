//! The console of a guest that another process runs: its bytes come from a socket, and what is typed goes there. A [`Console`] of
//! this process shows what that one shows.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::keyboard::Keys;
use super::replay;
use super::signals::with_all_blocked;
use super::stream::{Console, PIECE, Pace, Reader};
use super::wait::{For, wait};
use crate::devices::sink::Sink;

/// Bytes that are read at once.
const READ: usize = 64 << 10;
/// Bytes of what is typed that a socket takes at once.
const ROOM: usize = 4096;

/// What shows another process' console.
pub struct Far {
    /// The guest's.
    pub name: String,
    pub console: Console,
    /// Gets what is to be shown.
    pub reader: Reader,
    /// Readable at the end of the guest's console.
    pub ended: Arc<EventFd>,
}

/// Shows the last of `past`, as many lines as there are `rows`, and then starts a thread that passes on what comes from `socket`,
/// which does not block. `is_terminal` says whether a terminal shows it.
pub fn show(name: &str, socket: UnixStream, past: &[u8], rows: usize, is_terminal: bool) -> io::Result<Far> {
    let console = Console::default();
    let ended = Arc::new(EventFd::new(EFD_NONBLOCK)?);
    let sink = console.sink();
    let (skipped, shown) = replay::split(past, rows);
    put(&*sink, skipped);
    let reader = console.attach_to_what_comes(Pace::GuestWaits);
    let follow = {
        let (console, ended) = (console.clone(), ended.clone());
        let shown = match is_terminal {
            true => replay::for_terminal(skipped, shown),
            false => shown.to_vec(),
        };
        move || {
            put(&*sink, &shown);
            pass_on(socket, &*sink);
            console.end();
            // An eventfd's write fails only when it is readable already.
            let _ = ended.write(1);
        }
    };
    with_all_blocked(|| thread::Builder::new().name("far console".into()).spawn(follow))?;
    Ok(Far {
        name: name.into(),
        console,
        reader,
        ended,
    })
}

/// Passes on what comes until the end, which any error is.
fn pass_on(mut socket: UnixStream, sink: &dyn Sink) {
    let mut bytes = vec![0; READ];
    loop {
        if wait([Some(For::Reading(socket.as_fd()))], None).is_err() {
            return;
        }
        match socket.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => put(sink, &bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => (),
            Err(_) => return,
        }
    }
}

/// Prints bytes, and waits where a reader is slow.
fn put(sink: &dyn Sink, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE) {
        sink.wait_for_room();
        piece.iter().for_each(|&byte| sink.put(byte));
    }
    sink.pause();
}

/// Types at another process' console.
pub struct FarKeyboard {
    socket: UnixStream,
    /// It has refused bytes.
    is_full: Cell<bool>,
}

impl FarKeyboard {
    /// `socket` does not block.
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            is_full: Cell::new(false),
        }
    }
}

impl Keys for FarKeyboard {
    fn type_in(&self, bytes: &[u8]) -> usize {
        match (&self.socket).write(bytes) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                self.is_full.set(true);
                0
            }
            // The guest has ended, as the end of its output tells, too.
            Err(_) => bytes.len(),
        }
    }

    fn room(&self) -> usize {
        let socket = self.socket.as_fd();
        let watched = [Some(For::Writing(socket)), Some(For::HangUp(socket))];
        let [is_ready, is_gone] = wait(watched, Some(Duration::ZERO)).unwrap_or_default();
        self.is_full.set(!is_ready);
        // Once the guest has ended, what is in a pipe is left to its next reader.
        if is_ready && !is_gone { ROOM } else { 0 }
    }

    fn takes_more(&self) -> Option<For<'_>> {
        self.is_full.get().then(|| For::Writing(self.socket.as_fd()))
    }

    fn note_that_it_takes_more(&self) {
        self.is_full.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Read as Got, borrow};

    fn pair() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (near, far)
    }

    #[test]
    fn what_comes_is_shown_behind_the_end_of_the_past_until_the_end() {
        let (near, mut far) = pair();
        let Far {
            console,
            mut reader,
            ended,
            ..
        } = show("web", near, b"one\ntwo\nthree\n", 3, false).unwrap();
        far.write_all(b"four\n").unwrap();
        drop(far);
        wait([Some(For::Reading(borrow(&ended)))], None).unwrap();
        let mut bytes = Vec::new();
        assert_eq!(reader.read(&mut bytes), Got::Bytes { missed: 0 });
        assert_eq!(bytes, b"two\nthree\nfour\n");
        assert_eq!(reader.read(&mut bytes), Got::Ended);
        assert_eq!(console.tail_of_run(), b"one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn a_reader_that_does_not_read_has_the_other_process_wait_and_nothing_is_lost() {
        let (near, far) = pair();
        far.set_nonblocking(true).unwrap();
        let Far { mut reader, .. } = show("web", near, b"", 24, false).unwrap();
        let piece: Vec<u8> = (0..=255).collect();
        let mut sent = 0;
        // As long as the socket takes bytes within a moment, somebody reads.
        while wait(
            [Some(For::Writing(far.as_fd()))],
            Some(Duration::from_millis(200)),
        )
        .unwrap()
            == [true]
        {
            sent += (&far).write(&piece[sent % 256..]).unwrap();
            assert!(sent < 8 << 20, "nobody is waited for");
        }
        drop(far);
        let (mut all, mut bytes) = (Vec::new(), Vec::new());
        while let Got::Bytes { missed } = reader.read(&mut bytes) {
            assert_eq!(missed, 0);
            all.append(&mut bytes);
        }
        assert_eq!(all.len(), sent);
        assert!(all.iter().enumerate().all(|(at, &byte)| byte == at as u8));
    }

    #[test]
    fn a_socket_that_is_full_takes_no_more_until_somebody_reads() {
        let (near, mut far) = pair();
        let keys = FarKeyboard::new(near);
        let mut typed = 0;
        loop {
            match keys.type_in(&[b'x'; ROOM]) {
                0 => break,
                taken => typed += taken,
            }
        }
        assert_eq!(keys.room(), 0);
        let ready = |patience| wait([keys.takes_more()], Some(patience)).unwrap();
        assert_eq!(ready(Duration::ZERO), [false]);
        let mut read = vec![0; typed];
        far.read_exact(&mut read).unwrap();
        assert_eq!(ready(Duration::from_secs(60)), [true]);
        keys.note_that_it_takes_more();
        assert!(keys.takes_more().is_none() && keys.room() > 0);
        // A process that another test is just starting may still have this end open.
        far.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(keys.room(), 0, "nothing more is asked for");
        assert_eq!(keys.type_in(b"xyz"), 3, "what nobody will ever take is not kept");
    }
}
