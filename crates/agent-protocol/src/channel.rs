//! A connection that does not block: whole messages out of bytes and back.

use std::io::{self, Read, Write};
use std::marker::PhantomData;

use crate::frame::{Incoming, hello, put};
use crate::{FRAME_MAX, Message, ToAgent, ToHost};

/// Bytes read at once.
const READ: usize = 64 << 10;

/// One end, which sends messages of one kind and receives those of the other.
pub struct Channel<Stream, Sent, Received> {
    stream: Stream,
    incoming: Incoming,
    outgoing: Vec<u8>,
    /// So many of the outgoing bytes are written.
    written: usize,
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
            buffer: vec![0; READ],
            messages: PhantomData,
        }
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sends a message as soon as the peer takes it. False if it is too long.
    #[must_use]
    pub fn send(&mut self, message: &Sent, data: &[u8]) -> bool {
        put(&mut self.outgoing, message, data)
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what has arrived. False at the end of the connection.
    pub fn read(&mut self) -> io::Result<bool> {
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
        self.incoming
            .next()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
