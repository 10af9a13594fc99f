//! A connection that does not block: whole messages out of bytes and back.

use std::io::{self, Read, Write};
use std::marker::PhantomData;

use crate::frame::{Incoming, hello, put};
use crate::{FRAME_MAX, Message, ToAgent, ToHost};

/// Bytes read at once.
const READ: usize = 64 << 10;
/// A peer that lets more than so many bytes wait, and sends on, is refused. One that keeps to the protocol never has more than
/// the longest message and a few short ones waiting.
const UNSENT_MAX: usize = 2 * FRAME_MAX;

/// One end, which sends messages of one kind and receives those of the other.
pub struct Channel<Stream, Sent, Received> {
    stream: Stream,
    incoming: Incoming,
    outgoing: Vec<u8>,
    /// So many of the outgoing bytes are written.
    written: usize,
    /// What is sent once the peer has said its hello, if that is waited for.
    held: Option<Vec<u8>>,
    buffer: Vec<u8>,
    messages: PhantomData<(Sent, Received)>,
}

/// The host's end.
pub type HostChannel<Stream> = Channel<Stream, ToAgent, ToHost>;
/// The agent's end.
pub type AgentChannel<Stream> = Channel<Stream, ToHost, ToAgent>;

impl<Stream: Read + Write, Sent: Message, Received: Message> Channel<Stream, Sent, Received> {
    /// `stream` is one whose reads and writes do not block.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            incoming: Incoming::new(FRAME_MAX),
            outgoing: hello().to_vec(),
            written: 0,
            held: None,
            buffer: vec![0; READ],
            messages: PhantomData,
        }
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sends no message before the peer has said its hello. So a peer that comes when this end has given up finds none.
    pub fn wait_for_peer(&mut self) {
        self.held = Some(Vec::new());
    }

    /// Sends a message as soon as the peer takes it. False if it is too long.
    #[must_use]
    pub fn send(&mut self, message: &Sent, data: &[u8]) -> bool {
        put(self.held.as_mut().unwrap_or(&mut self.outgoing), message, data)
    }

    /// Whether the peer has said its hello, as far as [`Channel::next`] has come.
    pub fn is_greeted(&self) -> bool {
        self.incoming.is_greeted
    }

    /// How many bytes the peer has not taken yet.
    pub fn unsent(&self) -> usize {
        self.outgoing.len() - self.written
    }

    /// Writes what the peer takes at once.
    pub fn write(&mut self) -> io::Result<()> {
        while self.unsent() > 0 {
            match self.stream.write(&self.outgoing[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.outgoing.drain(..self.written);
        self.written = 0;
        Ok(())
    }

    /// Reads what has arrived. False at the end of the connection. An error of the kind `InvalidData` is one of the peer's, as
    /// in [`Channel::next`].
    pub fn read(&mut self) -> io::Result<bool> {
        if self.unsent() > UNSENT_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it sends messages and does not read its own",
            ));
        }
        match self.stream.read(&mut self.buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.incoming.push(&self.buffer[..count]);
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// The next message that has arrived whole, and the bytes that it carries. An error of the kind `InvalidData` is one of
    /// the peer's, and the connection is of no use any more.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it gives borrows from it, as no iterator's item can"
    )]
    pub fn next(&mut self) -> io::Result<Option<(Received, &[u8])>> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if self.held.is_some() && self.incoming.greet().map_err(invalid)? {
            self.outgoing.extend(self.held.take().unwrap_or_default());
        }
        self.incoming.next().map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::Stream;

    /// A peer that takes so many bytes at a time, and then none until it is asked again.
    struct Peer {
        takes: usize,
        has_taken: bool,
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.has_taken ^= true;
            match (self.has_taken, self.takes.min(bytes.len())) {
                (false, _) | (_, 0) => Err(io::ErrorKind::WouldBlock.into()),
                (true, count) => Ok(count),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer[0] = 0;
            Ok(1)
        }
    }

    fn channel(takes: usize) -> HostChannel<Peer> {
        HostChannel::new(Peer {
            takes,
            has_taken: false,
        })
    }

    const ROOM: ToAgent = ToAgent::Room {
        stream: Stream::Out,
        bytes: 1,
    };

    #[test]
    fn what_a_peer_has_taken_is_not_kept_though_it_never_takes_all() {
        let mut channel = channel(1000);
        for _ in 0..10_000 {
            while channel.unsent() <= 1000 {
                assert!(channel.send(&ROOM, &[]));
            }
            channel.write().unwrap();
            assert!(channel.unsent() > 0);
            assert!(channel.outgoing.len() < 2000);
        }
    }

    #[test]
    fn a_peer_that_takes_nothing_and_sends_is_refused() {
        let mut channel = channel(0);
        while channel.unsent() <= UNSENT_MAX {
            assert!(channel.send(&ROOM, &[]));
            channel.write().unwrap();
        }
        assert_eq!(channel.read().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_peer_that_has_not_said_its_hello_is_sent_no_message() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut channel = HostChannel::new(ours);
        channel.wait_for_peer();
        let mut sent = || {
            let mut bytes = [0; 100];
            match theirs.read(&mut bytes) {
                Ok(count) => bytes[..count].to_vec(),
                Err(_) => Vec::new(),
            }
        };
        assert!(channel.send(&ROOM, &[]) && channel.send(&ToAgent::InputEnd, &[]));
        channel.write().unwrap();
        assert_eq!(sent(), hello());
        channel.incoming.push(&hello()[..7]);
        assert!(channel.next().unwrap().is_none());
        channel.write().unwrap();
        assert_eq!(sent(), []);
        channel.incoming.push(&hello()[7..]);
        assert!(channel.next().unwrap().is_none());
        assert!(channel.send(&ToAgent::Signal(1), &[]));
        channel.write().unwrap();
        let mut all = Vec::new();
        for message in [ROOM, ToAgent::InputEnd, ToAgent::Signal(1)] {
            assert!(put(&mut all, &message, &[]));
        }
        assert_eq!(sent(), all);
    }
}
