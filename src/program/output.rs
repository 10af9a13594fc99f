//! stdout or stderr of this process, to which a program in the guest writes.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use coracle_agent_protocol::{Stream, WINDOW};

use crate::console::{GuestModes, is_ready_for_writing};

/// Bytes that a pipe takes whole, and without blocking, once it is ready for writing: `PIPE_BUF`.
const PIECE: usize = 4096;
/// The agent is told of so much room or more, and not of each piece: each time wakes the guest.
const ENOUGH_ROOM: usize = WINDOW as usize / 2;

/// A stream and the bytes that are not written to it yet: no more than the protocol's window.
pub struct Output {
    stream: Stream,
    fd: RawFd,
    /// Bytes to write, of which the first `written` are.
    bytes: Vec<u8>,
    written: usize,
    /// So many bytes the agent has sent that it was not given room for again.
    due: usize,
    /// Nobody reads it any more, or writing failed.
    is_closed: bool,
    /// What the program did to the terminal, if this is one.
    modes: Option<GuestModes>,
}

impl Output {
    pub fn new(stream: Stream) -> Self {
        let fd = match stream {
            Stream::Out => libc::STDOUT_FILENO,
            Stream::Err => libc::STDERR_FILENO,
        };
        // SAFETY: a system call without pointers.
        let is_terminal = unsafe { libc::isatty(fd) } == 1;
        Self::on(fd, stream, is_terminal)
    }

    fn on(fd: RawFd, stream: Stream, is_terminal: bool) -> Self {
        Self {
            stream,
            fd,
            bytes: Vec::new(),
            written: 0,
            due: 0,
            is_closed: false,
            modes: is_terminal.then(GuestModes::default),
        }
    }

    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// What to wait for until it takes more.
    pub fn wanted(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: nobody in this process closes these descriptors, and the calls that get it report an error if it was
        // never open.
        (self.unwritten() > 0).then(|| unsafe { BorrowedFd::borrow_raw(self.fd) })
    }

    /// How many bytes are not written yet.
    pub fn unwritten(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Takes bytes of the program. What comes after an error is thrown away.
    pub fn take(&mut self, data: &[u8]) {
        if !self.is_closed {
            self.due += data.len();
        }
        self.put(data);
    }

    fn put(&mut self, data: &[u8]) {
        if self.is_closed {
            return;
        }
        self.bytes.drain(..self.written);
        self.written = 0;
        self.bytes.extend(data);
    }

    /// How much room the agent is to be given, if it is.
    pub fn take_room(&mut self) -> Option<u32> {
        // What is not written includes bytes that are not the agent's, as it may.
        let room = self.due.saturating_sub(self.unwritten());
        if room < ENOUGH_ROOM || self.is_closed {
            return None;
        }
        self.due -= room;
        u32::try_from(room).ok()
    }

    /// Whether the agent has sent more than it had room for.
    pub fn is_overrun(&self) -> bool {
        self.due > WINDOW as usize
    }

    /// Writes what the stream takes without waiting; to a terminal, which may be slow, no more than a piece, so that a person is
    /// heard in between. After an error nothing more is written.
    pub fn write(&mut self) -> io::Result<()> {
        while self.write_piece()? && self.modes.is_none() {}
        Ok(())
    }

    /// Writes a piece, if the stream takes one: stdout and stderr may be the same pipe, which the other one has filled. Returns
    /// whether something was written.
    fn write_piece(&mut self) -> io::Result<bool> {
        if !self.wanted().is_some_and(is_ready_for_writing) {
            return Ok(false);
        }
        let piece = &self.bytes[self.written..];
        let piece = &piece[..piece.len().min(PIECE)];
        // SAFETY: the piece is readable for its whole length.
        let count = unsafe { libc::write(self.fd, piece.as_ptr().cast(), piece.len()) };
        match usize::try_from(count) {
            Ok(count) => {
                if let Some(modes) = &mut self.modes {
                    modes.watch(&piece[..count]);
                }
                self.written += count;
                Ok(count > 0)
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(false),
                    _ => {
                        self.is_closed = true;
                        (self.bytes, self.written) = (Vec::new(), 0);
                        Err(error)
                    }
                }
            }
        }
    }

    /// Undoes what the program did to the terminal: until [`Output::redo`], or for good.
    pub fn undo(&mut self) -> io::Result<()> {
        let undo = self.modes.as_ref().map(GuestModes::undo);
        self.put(&undo.unwrap_or_default());
        while self.write_piece()? {}
        Ok(())
    }

    /// Does again what was undone.
    pub fn redo(&mut self) {
        let redo = self.modes.as_ref().map(GuestModes::redo);
        self.put(&redo.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, pipe};
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;

    use super::*;

    /// A program that switches to another screen, so that there is something to undo.
    const CHANGE: &[u8] = b"\x1b[?1049h";

    /// An output, the agent that sends to it, and whoever reads it.
    struct Room {
        output: Output,
        reader: PipeReader,
        _writer: PipeWriter,
        sent: Vec<u8>,
        /// What the agent may still send.
        left: usize,
        arrived: usize,
    }

    impl Room {
        fn new(is_terminal: bool) -> Self {
            let (reader, writer) = pipe().unwrap();
            Self {
                output: Output::on(writer.as_raw_fd(), Stream::Out, is_terminal),
                reader,
                _writer: writer,
                sent: Vec::new(),
                left: WINDOW as usize,
                arrived: 0,
            }
        }

        fn send(&mut self, bytes: &[u8]) {
            let bytes = &bytes[..bytes.len().min(self.left)];
            self.output.take(bytes);
            self.sent.extend(bytes);
            self.left -= bytes.len();
        }

        fn write(&mut self) {
            self.output.write().unwrap();
            if let Some(room) = self.output.take_room() {
                self.left += room as usize;
                assert!(
                    self.left + self.output.unwritten() <= WINDOW as usize || self.output.modes.is_some(),
                    "room for what is not written"
                );
                assert!(self.left <= WINDOW as usize, "more room than there is");
            }
        }

        /// What arrives, but for what nobody has sent.
        fn read(&mut self, count: usize) {
            let mut buffer = vec![0; count];
            let mut entry = libc::pollfd {
                fd: self.reader.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry, as it says.
            if unsafe { libc::poll(&mut entry, 1, 0) } == 1 {
                let count = self.reader.read(&mut buffer).unwrap();
                if self.output.modes.is_none() {
                    let expected = &self.sent[self.arrived..][..count];
                    assert!(buffer[..count] == *expected);
                }
                self.arrived += count;
            }
        }
    }

    proptest! {
        #[test]
        fn all_arrives_and_the_agent_is_given_no_more_room_than_there_is(
            is_terminal: bool,
            steps in prop::collection::vec((0..5_u8, 1..40_000_usize), 1..60),
        ) {
            let mut room = Room::new(is_terminal);
            room.send(CHANGE);
            for (step, count) in steps {
                match step {
                    0 => {
                        let piece: Vec<u8> = (0..count).map(|number| number as u8 | 0x80).collect();
                        room.send(&piece);
                    }
                    1 => room.read(count),
                    2 if is_terminal => room.output.undo().unwrap(),
                    3 if is_terminal => room.output.redo(),
                    _ => room.write(),
                }
            }
            // A terminal takes a piece at a time.
            for _ in 0..1000 {
                room.write();
                room.read(64 << 10);
            }
            prop_assert_eq!(room.output.unwritten(), 0);
            prop_assert!(room.arrived >= room.sent.len());
            // An agent that waits for room is never left waiting.
            prop_assert!(room.left > WINDOW as usize - ENOUGH_ROOM);
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_an_error_once() {
        let Room {
            mut output,
            reader,
            _writer,
            ..
        } = Room::new(false);
        drop(reader);
        output.take(b"for nobody");
        assert_eq!(output.write().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        output.take(b"thrown away");
        assert!(output.wanted().is_none());
    }

    #[test]
    fn two_streams_into_one_pipe_do_not_wait_for_its_reader() {
        let Room {
            mut output,
            reader: _reader,
            _writer,
            ..
        } = Room::new(false);
        let mut error = Output::on(_writer.as_raw_fd(), Stream::Err, false);
        for output in [&mut output, &mut error] {
            output.take(&[b'x'; WINDOW as usize]);
            assert!(!output.is_overrun());
        }
        // Both were found ready before. The pipe takes the window of one of them.
        output.write().unwrap();
        error.write().unwrap();
        assert_eq!((output.unwritten(), error.unwritten()), (0, WINDOW as usize));
    }

    #[test]
    fn more_than_there_was_room_for_is_noticed_also_when_all_is_written_at_once() {
        let file = tempfile::tempfile().unwrap();
        let mut output = Output::on(file.as_raw_fd(), Stream::Out, false);
        output.take(&[0; ENOUGH_ROOM - 1]);
        output.write().unwrap();
        assert!(output.take_room().is_none() && !output.is_overrun());
        output.take(&[0; WINDOW as usize]);
        assert!(output.is_overrun());
    }
}
