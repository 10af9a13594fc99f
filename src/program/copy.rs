//! A copy: an archive on its way to the agent in a guest, or from it.

use std::io::{self, ErrorKind, Read, Write, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use coracle_agent_protocol::{DATA_MAX, Failure, HostChannel, Stream, ToAgent, ToHost, WINDOW};

use crate::console::{For, Request, Signals, suspend, wait};

/// Bytes of what the agent says of a copy, of which the last are kept. It is text for a person.
const SAID_MAX: usize = 8 << 10;
/// Bytes that a pipe takes whole, and without blocking, once it is ready for writing: `PIPE_BUF`.
const PIECE: usize = 4096;

/// How long a machine takes to end after its connections have.
const MACHINE_ENDS: Duration = Duration::from_secs(1);

/// How a copy ended.
#[derive(Debug)]
pub enum CopyEnded {
    /// The process that copies in the guest exited with this status.
    Exited(u8),
    /// It was killed, by this signal.
    Killed(u8),
    /// It was not started.
    NotStarted(Failure),
    /// The agent is gone, does not answer, or makes no sense.
    Agent(io::Error),
    /// The machine ended.
    Machine,
    /// A signal asked for the end.
    Signal(i32),
}

/// A copy. What is written to it is the archive that the agent unpacks; what is read from it is the one that the agent packs. After the
/// copy has ended otherwise than it should, both fail, and [`Copy::finish`] says how.
pub struct Copy<'a> {
    channel: HostChannel<UnixStream>,
    machine: BorrowedFd<'a>,
    signals: &'a mut Signals,
    /// When the agent has to have answered.
    patience: Instant,
    is_heard: bool,
    /// The agent takes so many bytes now.
    wanted: usize,
    /// What has arrived of the archive and was not read yet.
    received: Vec<u8>,
    said: Vec<u8>,
    ended: Option<CopyEnded>,
    /// Is told how many bytes of the archive were copied.
    progress: Box<dyn FnMut(u64) + 'a>,
    copied: u64,
}

impl<'a> Copy<'a> {
    /// Asks the agent at the other end for `what`. It has to answer within `patience`. `machine` becomes readable when the machine
    /// has ended.
    pub fn new(
        connection: UnixStream,
        what: &ToAgent,
        patience: Duration,
        machine: BorrowedFd<'a>,
        signals: &'a mut Signals,
        progress: impl FnMut(u64) + 'a,
    ) -> io::Result<Self> {
        connection.set_nonblocking(true)?;
        let mut channel = HostChannel::new(connection);
        let is_sent = channel.send(what, &[]);
        debug_assert!(is_sent);
        Ok(Self {
            channel,
            machine,
            signals,
            patience: Instant::now() + patience,
            is_heard: false,
            wanted: 0,
            received: Vec::new(),
            said: Vec::new(),
            ended: None,
            progress: Box::new(progress),
            copied: 0,
        })
    }

    /// Gives the agent what is read from stdin.
    pub fn send_stdin(&mut self) -> io::Result<()> {
        let stdin = stdin();
        let mut buffer = vec![0; DATA_MAX];
        loop {
            while self.wanted == 0 {
                self.turn(None)?;
            }
            while !self.turn(Some(For::Reading(stdin.as_fd())))? {}
            let most = self.wanted.min(buffer.len());
            // SAFETY: the buffer is writable for so many bytes.
            let count = unsafe { libc::read(stdin.as_raw_fd(), buffer.as_mut_ptr().cast(), most) };
            match usize::try_from(count) {
                Ok(0) => return Ok(()),
                Ok(count) => self.write_all(&buffer[..count])?,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == ErrorKind::Interrupted => {}
                    error if error.kind() == ErrorKind::WouldBlock => {}
                    error => return Err(error),
                },
            }
        }
    }

    /// Writes what the agent packs to stdout.
    pub fn receive_to_stdout(&mut self) -> io::Result<()> {
        let stdout = stdout();
        let mut buffer = [0; PIECE];
        loop {
            let count = self.read(&mut buffer)?;
            let mut rest = &buffer[..count];
            if rest.is_empty() {
                return Ok(());
            }
            while !rest.is_empty() {
                self.wait_for(For::Writing(stdout.as_fd()))?;
                // SAFETY: the rest is readable for its whole length.
                let count = unsafe { libc::write(stdout.as_raw_fd(), rest.as_ptr().cast(), rest.len()) };
                match usize::try_from(count) {
                    Ok(count) => rest = &rest[count..],
                    Err(_) => match io::Error::last_os_error() {
                        error if error.kind() == ErrorKind::Interrupted => {}
                        error if error.kind() == ErrorKind::WouldBlock => {}
                        error if error.kind() == ErrorKind::BrokenPipe => return Err(error),
                        error => {
                            let why = format!("cannot write to stdout: {error}");
                            return Err(io::Error::new(error.kind(), why));
                        }
                    },
                }
            }
        }
    }

    /// Waits until the agent has done its part, once all was written or read. Without `is_whole` the agent is to give up. Returns how
    /// the copy ended, what the agent said, and how many bytes the archive had.
    pub fn finish(mut self, is_whole: bool) -> (Option<CopyEnded>, String, u64) {
        let mut is_told = false;
        while is_whole && self.ended.is_none() {
            if self.wanted > 0 && !is_told {
                is_told = self.channel.send(&ToAgent::InputEnd, &[]);
            }
            // What is read behind the archive's end is nothing.
            self.drop_received();
            if let Err(error) = self.turn(None) {
                self.end(CopyEnded::Agent(error));
            }
        }
        let said = String::from_utf8_lossy(&self.said).into_owned();
        (self.ended, said, self.copied)
    }

    fn drop_received(&mut self) {
        let count = self.received.len();
        self.received.clear();
        self.give_room(count);
    }

    fn give_room(&mut self, count: usize) {
        // No more than the window was received.
        if let Ok(bytes @ 1..) = u32::try_from(count) {
            let stream = Stream::Out;
            let is_sent = self.channel.send(&ToAgent::Room { stream, bytes }, &[]);
            debug_assert!(is_sent);
        }
    }

    /// Waits until `other` is ready, and meanwhile does what there is to do. An error says that the copy has ended. One that has
    /// succeeded may have sent more than was passed on, so that is no error.
    fn wait_for(&mut self, other: For) -> io::Result<()> {
        loop {
            if !self.has_succeeded() {
                if self.turn(Some(other))? {
                    return Ok(());
                }
                continue;
            }
            let [is_sent, is_ready] = wait([Some(For::Reading(self.signals.as_fd())), Some(other)], None)?;
            if is_sent {
                self.obey_signals();
            }
            if is_ready {
                return Ok(());
            }
        }
    }

    /// The process that copies in the guest has done its part.
    fn has_succeeded(&self) -> bool {
        matches!(self.ended, Some(CopyEnded::Exited(0)))
    }

    /// Waits for something to do, and does it. Returns whether `other` is ready. An error says that the copy has ended.
    fn turn(&mut self, other: Option<For>) -> io::Result<bool> {
        if self.ended.is_some() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if let Err(error) = self.channel.write() {
            self.ended = Some(CopyEnded::Agent(error));
            return Ok(false);
        }
        let channel = self.channel.stream().as_fd();
        let watched = [
            Some(For::Reading(channel)),
            (self.channel.unsent() > 0).then_some(For::Writing(channel)),
            Some(For::Reading(self.machine)),
            Some(For::Reading(self.signals.as_fd())),
            other,
        ];
        let left = (!self.is_heard).then(|| self.patience.saturating_duration_since(Instant::now()));
        let [heard, _, is_over, is_sent, other] = wait(watched, left)?;
        if is_sent {
            self.obey_signals();
        }
        if heard {
            self.hear();
        } else if is_over {
            self.end(CopyEnded::Machine);
        } else if left.is_some_and(|left| left.is_zero()) {
            self.end(CopyEnded::Agent(ErrorKind::TimedOut.into()));
        }
        Ok(other)
    }

    fn obey_signals(&mut self) {
        while let Some(request) = self.signals.take() {
            match request {
                // Also if the guest has done its part.
                Request::End(number) => self.ended = Some(CopyEnded::Signal(number)),
                Request::Suspend => suspend(),
                Request::Resume | Request::Resize => {}
            }
        }
    }

    /// Takes what the agent says.
    fn hear(&mut self) {
        match self.channel.read() {
            Ok(true) => self.is_heard = true,
            Ok(false) => return self.lose(ErrorKind::UnexpectedEof.into()),
            Err(error) => return self.lose(error),
        }
        let mut said = 0;
        loop {
            let message = match self.channel.next() {
                Ok(Some((ToHost::Output(Stream::Out), data))) => {
                    self.received.extend(data);
                    if self.received.len() > WINDOW as usize {
                        let why = "it sent more of an archive than there is room for";
                        return self.end(CopyEnded::Agent(io::Error::new(ErrorKind::InvalidData, why)));
                    }
                    continue;
                }
                Ok(Some((ToHost::Output(Stream::Err), data))) => {
                    self.said.extend(data);
                    let too_many = self.said.len().saturating_sub(SAID_MAX);
                    self.said.drain(..too_many);
                    // No message carries more than the window.
                    said += data.len() as u32;
                    continue;
                }
                Ok(Some((message, _))) => message,
                Ok(None) => break,
                Err(error) => return self.end(CopyEnded::Agent(error)),
            };
            match message {
                ToHost::Wants(bytes) => self.wanted = bytes as usize,
                ToHost::Exited(status) => self.end(CopyEnded::Exited(status)),
                ToHost::Killed(signal) => self.end(CopyEnded::Killed(signal)),
                ToHost::Failed(failure) => self.end(CopyEnded::NotStarted(failure)),
                ToHost::Started
                | ToHost::OutputEnd(_)
                | ToHost::Output(_)
                | ToHost::PowersOff
                | ToHost::Done => {}
            }
        }
        if (1..=WINDOW).contains(&said) {
            let stream = Stream::Err;
            let is_sent = self.channel.send(&ToAgent::Room { stream, bytes: said }, &[]);
            debug_assert!(is_sent);
        }
    }

    /// The connection has ended. It ends with the machine, whose end tells more.
    fn lose(&mut self, error: io::Error) {
        let is_over = wait([Some(For::Reading(self.machine))], Some(MACHINE_ENDS));
        self.end(match is_over {
            Ok([true]) => CopyEnded::Machine,
            _ => CopyEnded::Agent(error),
        });
    }

    /// What was told first counts.
    fn end(&mut self, how: CopyEnded) {
        self.ended.get_or_insert(how);
    }

    fn count(&mut self, bytes: usize) {
        self.copied += bytes as u64;
        (self.progress)(self.copied);
    }
}

impl Write for Copy<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.wanted == 0 {
            self.turn(None)?;
        }
        let count = bytes.len().min(self.wanted).min(DATA_MAX);
        if count > 0 {
            let is_sent = self.channel.send(&ToAgent::Input, &bytes[..count]);
            debug_assert!(is_sent);
            self.wanted = 0;
            self.count(count);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Copy<'_> {
    /// The end of what the agent has packed is an end only if it has packed all.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.received.is_empty() {
            if self.has_succeeded() {
                return Ok(0);
            }
            self.turn(None)?;
        }
        let count = buffer.len().min(self.received.len());
        buffer[..count].copy_from_slice(&self.received[..count]);
        self.received.drain(..count);
        self.give_room(count);
        self.count(count);
        Ok(count)
    }
}

#[cfg(test)]
#[path = "copy_test.rs"]
mod tests;
