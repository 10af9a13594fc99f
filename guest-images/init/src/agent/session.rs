//! One connection: the program that the host wants, its streams, and its end.

use std::ffi::{OsStr, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use coracle_agent_protocol::{AgentChannel, Failure, Program, Reason, Stream, ToAgent, ToHost};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};

use super::copy::{self, Copy};
use super::input::Input;
use super::kernel;
use super::output::Output;
use super::prepare::prepare;
use super::start::{Started, resize, start};
use super::streams::make_nonblocking;

/// Bytes of output read at once.
const READ: usize = 32 << 10;
/// With so many bytes under way, no more of the program's output is read.
pub const ENOUGH: usize = 64 << 10;

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// As the host is told by [`Session::tell`].
    Program(ToHost),
    /// The host wants the guest to power off, and no program.
    PowerOff,
    /// What was watched beside the session says that it is to end.
    Interrupted,
}

/// The program of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    NotStarted,
    /// The session itself waits for this process, which is asked to end by this signal.
    Runs {
        pid: Pid,
        stop_signal: c_int,
    },
    /// It has ended, and was waited for. Its output may still be on its way.
    Ended,
}

/// The host's messages and ours.
pub type Connection = AgentChannel<File>;

pub struct Session {
    connection: Connection,
    program: Option<Running>,
    buffer: Vec<u8>,
}

/// The program. If it has not ended, dropping it kills it and all in its group. A copy is not killed: it ends as its streams do,
/// and removes what it has not written whole.
struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    /// It is the agent's own, and ends with its streams.
    is_copy: bool,
    stop_signal: c_int,
    has_terminal: bool,
    input: Input,
    outputs: [Option<Output>; 2],
    /// How it ended.
    end: Option<ToHost>,
}

impl Session {
    pub fn new(connection: OwnedFd) -> io::Result<Self> {
        make_nonblocking(connection.as_fd())?;
        Ok(Self {
            connection: Connection::new(connection.into()),
            program: None,
            buffer: vec![0; READ],
        })
    }

    /// Runs the program that the host asks for until it has ended and all that it had written is sent. `beside` is watched,
    /// too: when it is readable, the function decides whether the session goes on; it is told of the program. An error is one of
    /// the connection: the host is not there any more, or makes no sense.
    pub fn run(
        &mut self,
        beside: Option<BorrowedFd>,
        mut look: impl FnMut(State) -> bool,
    ) -> io::Result<Ended> {
        loop {
            self.connection.write()?;
            if let Some(running) = &self.program
                && let Some(end) = running.is_over()
                && self.connection.unsent() == 0
            {
                return Ok(Ended::Program(end));
            }
            let happened = self.wait(beside)?;
            if happened.beside && !look(self.state()) {
                return Ok(Ended::Interrupted);
            }
            if happened.connection && !self.connection.read()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut has_started = false;
            while let Some((message, data)) = self.connection.next()? {
                let started = match (message, &mut self.program) {
                    (message, Some(running)) => {
                        running.obey(message, data)?;
                        continue;
                    }
                    (ToAgent::Run(program), None) => Running::start(&program),
                    (ToAgent::CopyIn(copy), None) => Running::copy(Copy::In(&copy)),
                    (ToAgent::CopyOut(copy), None) => Running::copy(Copy::Out(&copy)),
                    (ToAgent::SetClock { seconds, nanoseconds }, None) => {
                        return Ok(done(kernel::set_clock(seconds, nanoseconds)));
                    }
                    (ToAgent::AddEntropy, None) => return Ok(done(kernel::add_entropy(data))),
                    (ToAgent::PowerOff, None) => return Ok(Ended::PowerOff),
                    (_, None) => return Err(io::ErrorKind::InvalidData.into()),
                };
                match started {
                    Ok(running) => {
                        self.program = Some(running);
                        has_started = true;
                    }
                    Err(failure) => return Ok(Ended::Program(failure)),
                }
            }
            if has_started {
                send(&mut self.connection, &ToHost::Started, &[]);
            }
            if let Some(running) = &mut self.program {
                running.go_on(&happened, &mut self.connection, &mut self.buffer);
            }
        }
    }

    fn state(&self) -> State {
        match &self.program {
            None => State::NotStarted,
            Some(running) if running.end.is_none() => State::Runs {
                pid: running.pid,
                stop_signal: running.stop_signal,
            },
            Some(_) => State::Ended,
        }
    }

    /// Says something to the host, and waits until it is on its way.
    pub fn say(&mut self, message: &ToHost) -> io::Result<()> {
        send(&mut self.connection, message, &[]);
        loop {
            self.connection.write()?;
            if self.connection.unsent() == 0 {
                return Ok(());
            }
            let stream = self.connection.stream().as_fd();
            wait_for(&mut [PollFd::new(stream, PollFlags::POLLOUT)])?;
        }
    }

    /// Tells the host how its program ended, and waits until the host closes the connection.
    pub fn tell(mut self, end: &ToHost) -> io::Result<()> {
        self.program = None;
        send(&mut self.connection, end, &[]);
        loop {
            self.connection.write()?;
            if self.wait(None)?.connection && !self.connection.read()? {
                return Ok(());
            }
            // What the host had sent before it knew is of no use any more.
            while self.connection.next()?.is_some() {}
        }
    }

    fn wait(&self, beside: Option<BorrowedFd>) -> io::Result<Happened> {
        let connection = match self.connection.unsent() {
            0 => PollFlags::POLLIN,
            _ => PollFlags::POLLIN | PollFlags::POLLOUT,
        };
        let mut watched = vec![(Which::Connection, self.connection.stream().as_fd(), connection)];
        watched.extend(beside.map(|fd| (Which::Beside, fd, PollFlags::POLLIN)));
        if let Some(running) = &self.program {
            if running.end.is_none() {
                watched.push((Which::End, running.pidfd.as_fd(), PollFlags::POLLIN));
            }
            watched.extend(
                running
                    .input
                    .wanted()
                    .map(|(fd, flags)| (Which::Input, fd, flags)),
            );
            for (index, output) in running.outputs.iter().enumerate() {
                let fd = output.as_ref().and_then(Output::wanted);
                let fd = fd.filter(|_| self.connection.unsent() < ENOUGH);
                watched.extend(fd.map(|fd| (Which::Output(index), fd, PollFlags::POLLIN)));
            }
        }
        let mut entries: Vec<_> = watched
            .iter()
            .map(|(_, fd, flags)| PollFd::new(*fd, *flags))
            .collect();
        wait_for(&mut entries)?;
        let mut happened = Happened::default();
        for ((which, ..), entry) in watched.iter().zip(&entries) {
            let flags = entry.revents().unwrap_or(PollFlags::empty());
            match which {
                _ if flags.is_empty() => {}
                Which::Connection => happened.connection = flags.intersects(!PollFlags::POLLOUT),
                Which::Beside => happened.beside = true,
                Which::End => happened.end = true,
                Which::Input => happened.input = Some(flags),
                Which::Output(index) => happened.outputs[*index] = true,
            }
        }
        Ok(happened)
    }
}

/// The end of a session for something that was done at once, or was not, as a sentence says.
fn done(what: Result<(), String>) -> Ended {
    Ended::Program(match what {
        Ok(()) => ToHost::Done,
        Err(why) => ToHost::Failed(Failure::new(Reason::Other, why)),
    })
}

/// What is watched.
enum Which {
    Connection,
    Beside,
    End,
    Input,
    Output(usize),
}

/// What a wait has brought.
#[derive(Default)]
struct Happened {
    connection: bool,
    beside: bool,
    end: bool,
    input: Option<PollFlags>,
    outputs: [bool; 2],
}

/// Sends the host a message as soon as it takes it.
pub fn send(connection: &mut Connection, message: &ToHost, data: &[u8]) {
    // Nothing that the agent sends comes near the limit.
    let fits = connection.send(message, data);
    debug_assert!(fits);
}

fn wait_for(entries: &mut [PollFd]) -> io::Result<()> {
    match poll(entries, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

impl Running {
    /// Starts the program. What is returned otherwise is what the host is told.
    fn start(program: &Program) -> Result<Self, ToHost> {
        if let Some(name) = &program.host_name {
            // Refused to all but root. The program runs all the same.
            let _ = sethostname(OsStr::from_bytes(name));
        }
        prepare(program).map_err(ToHost::Failed)?;
        let started = start(program).map_err(ToHost::Failed)?;
        let has_terminal = program.terminal.is_some();
        let mut running = Self::of(started, has_terminal, |input| Input::new(input, has_terminal));
        if let Some(number) = program.stop_signal {
            running.stop_signal = number.into();
        }
        Ok(running)
    }

    /// Starts a process that copies.
    fn copy(what: Copy) -> Result<Self, ToHost> {
        let started = copy::start(what).map_err(ToHost::Failed)?;
        let mut running = Self::of(started, false, Input::ahead);
        running.is_copy = true;
        Ok(running)
    }

    fn of(started: Started, has_terminal: bool, input: impl FnOnce(File) -> Input) -> Self {
        let Started {
            pid,
            pidfd,
            input: end,
            output,
            error,
        } = started;
        Self {
            pid,
            pidfd,
            is_copy: false,
            stop_signal: libc::SIGTERM,
            has_terminal,
            input: input(end),
            outputs: [
                Some(Output::new(Stream::Out, output, has_terminal)),
                error.map(|error| Output::new(Stream::Err, error, false)),
            ],
            end: None,
        }
    }

    /// How the program ended, once all that it had written is read.
    fn is_over(&self) -> Option<ToHost> {
        let is_done = self.outputs.iter().flatten().all(Output::is_done);
        self.end.clone().filter(|_| is_done)
    }

    /// Does what the host says. An error is one of the host's.
    fn obey(&mut self, message: ToAgent, data: &[u8]) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        match message {
            ToAgent::Run(_)
            | ToAgent::PowerOff
            | ToAgent::CopyIn(_)
            | ToAgent::CopyOut(_)
            | ToAgent::SetClock { .. }
            | ToAgent::AddEntropy => return Err(invalid()),
            ToAgent::Input => self.input.take(data)?,
            ToAgent::InputEnd => self.input.end(),
            ToAgent::Room { stream, bytes } => {
                if let Some(output) = self.output(stream)
                    && !output.add_room(bytes)
                {
                    return Err(invalid());
                }
            }
            ToAgent::Closed { stream } => {
                if let Some(output) = self.output(stream) {
                    output.close();
                }
            }
            // Once the program is waited for, its number may become another group's.
            ToAgent::Signal(number) if self.end.is_none() => self.signal(number.into()),
            ToAgent::Signal(_) => {}
            ToAgent::Resize(size) => {
                if let (true, Some((terminal, _))) = (self.has_terminal, self.input.wanted()) {
                    // Without its terminal a program needs no size.
                    let _ = resize(terminal, size);
                }
            }
        }
        Ok(())
    }

    fn go_on(&mut self, happened: &Happened, connection: &mut Connection, buffer: &mut [u8]) {
        if let Some(bytes) = self.input.go_on(happened.input.unwrap_or(PollFlags::empty())) {
            send(connection, &ToHost::Wants(bytes), &[]);
        }
        // Before the program's end is noticed, since then the rest is counted.
        for (output, is_readable) in self.outputs.iter_mut().zip(happened.outputs) {
            if let Some(output) = output.as_mut().filter(|_| is_readable) {
                output.read(connection, buffer);
            }
        }
        if happened.end && self.end.is_none() {
            self.end = match waitpid(self.pid, None) {
                // The kernel keeps the low eight bits only.
                Ok(WaitStatus::Exited(_, status)) => Some(ToHost::Exited(status as u8)),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(ToHost::Killed(signal as u8)),
                // It was only stopped and continued.
                Ok(_) => None,
                // Another part of this process has taken the status.
                Err(_) => Some(ToHost::Exited(u8::MAX)),
            };
            if self.end.is_some() {
                self.outputs.iter_mut().flatten().for_each(Output::program_ended);
            }
        }
        for output in self.outputs.iter_mut().flatten() {
            output.read_rest(connection, buffer);
        }
    }

    fn output(&mut self, stream: Stream) -> Option<&mut Output> {
        self.outputs[match stream {
            Stream::Out => 0,
            Stream::Err => 1,
        }]
        .as_mut()
    }

    /// Sends a signal to the program and to all in its group.
    fn signal(&self, number: i32) {
        // SAFETY: a system call without pointers. nix has no real-time signals.
        unsafe { libc::kill(-self.pid.as_raw(), number) };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.end.is_none() {
            match self.is_copy {
                true => {
                    self.input.close();
                    self.outputs = [None, None];
                }
                false => self.signal(libc::SIGKILL),
            }
            // It cannot be in the way of that for long.
            let _ = waitpid(self.pid, None);
        }
    }
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
