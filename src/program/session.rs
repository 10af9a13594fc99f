//! The session: it passes on what is typed and what the program writes, until the program has ended.

use std::fs::File;
use std::io::{self, stdin};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_agent_protocol::{Failure, HostChannel, Program, Stream, ToAgent, ToHost, WindowSize};
use libc::SIGHUP;

use super::input::{Input, Stdin, Typed};
use super::output::Output;
use crate::console::{
    Command, For, Menu, Place, Request, Signals, Terminal, borrow, is_in_foreground, start_wanted_stderr,
    suspend, tell, terminal_size, wait, wanted_stderr,
};
use crate::devices::sink::Sink;

/// How often a run in the background looks whether it is in the foreground now: no event tells it.
const FOREGROUND_LOOKS: Duration = Duration::from_millis(250);
/// When the agent is init, its end is that of the guest: so long that may take before the agent counts as gone.
const POWER_OFF: Duration = Duration::from_secs(10);
/// So many bytes may be on their way to the agent before no more input is read.
const ENOUGH: usize = 1 << 20;
/// What ends the program although it does not obey: the second SIGTERM, or the third SIGINT, which a person can type by
/// accident.
const PATIENCE: [(i32, u32); 2] = [(libc::SIGTERM, 2), (libc::SIGINT, 3)];

/// How a session ended.
#[derive(Debug)]
pub enum Ended {
    /// The program exited with this status.
    Exited(u8),
    /// This signal ended the program.
    Killed(u8),
    /// The program did not start.
    NotStarted(Failure),
    /// The machine ended first.
    Machine,
    /// The agent is gone, or makes no sense.
    Agent(io::Error),
    /// The person typed the command to quit.
    Quit,
    /// A signal asked for the end, and the program cannot be asked or did not obey.
    Signal(i32),
}

/// This process' streams, attached to a program in a guest. Dropping it gives the terminal back.
pub struct Session {
    channel: HostChannel<File>,
    /// The agent has said its hello, so a signal can be passed on.
    is_heard: bool,
    /// How long the guest may take to end once the connection has.
    power_off: Duration,
    /// When it has to have answered.
    patience: Option<Instant>,
    /// What of this process' streams is a terminal with which the session ends, how long after it, and when.
    terminals: Vec<RawFd>,
    grace: Duration,
    end_without: Option<Instant>,
    /// What the escape key's help says, unless it is that of a guest's console.
    help: Option<&'static str>,
    /// What gets a copy of the program's output.
    log: Option<Arc<dyn Sink>>,
    /// To be called once the program has started.
    tell_start: Option<Box<dyn FnOnce()>>,
    /// How often each signal of [`PATIENCE`] has come.
    asked_to_end: [u32; 2],
    /// The program has a terminal.
    has_terminal: bool,
    /// A terminal on stdin, when the program has one, too, and gets what is typed.
    terminal: Option<Terminal>,
    input: Input,
    outputs: [Output; 2],
    /// Why the program's output could not be written.
    output_error: Option<io::Error>,
    /// Why the connection is of no use any more, and when that was noticed.
    lost: Option<(io::Error, Instant)>,
    /// The program's end, once it is known.
    ended: Option<Ended>,
}

impl Session {
    /// A session for `program`, and the agent's end of its connection. The agent finds the request there, whenever it comes.
    pub fn new(program: Program, stdin: Stdin) -> io::Result<(Self, UnixStream)> {
        let (ours, agents) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let channel = HostChannel::new(File::from(OwnedFd::from(ours)));
        Ok((Self::over_channel(channel, program, stdin)?, agents))
    }

    /// A session for `program` over a connection to an agent that counts as gone if it has not said anything within `patience`.
    /// The program does not run after that, because the agent gets the request only after its hello.
    pub fn over(
        connection: UnixStream,
        program: Program,
        stdin: Stdin,
        patience: Duration,
    ) -> io::Result<Self> {
        connection.set_nonblocking(true)?;
        let mut channel = HostChannel::new(File::from(OwnedFd::from(connection)));
        channel.wait_for_peer();
        let mut session = Self::over_channel(channel, program, stdin)?;
        session.patience = Some(Instant::now() + patience);
        Ok(session)
    }

    fn over_channel(mut channel: HostChannel<File>, program: Program, stdin: Stdin) -> io::Result<Self> {
        let has_terminal = program.terminal.is_some();
        let types = has_terminal && stdin != Stdin::Nothing;
        let terminal = types.then(Terminal::on_stdin).flatten();
        if !channel.send(&ToAgent::Run(program), &[]) {
            return Err(io::Error::new(
                io::ErrorKind::ArgumentListTooLong,
                "its arguments and environment are longer than 1 MiB",
            ));
        }
        let input = Input::new(stdin, terminal.is_some(), has_terminal);
        Ok(Self {
            channel,
            is_heard: false,
            power_off: POWER_OFF,
            patience: None,
            terminals: Vec::new(),
            grace: Duration::ZERO,
            end_without: None,
            help: None,
            log: None,
            tell_start: None,
            asked_to_end: [0; 2],
            has_terminal,
            terminal,
            input,
            outputs: [Output::new(Stream::Out), Output::new(Stream::Err)],
            output_error: None,
            lost: None,
            ended: None,
        })
    }

    /// The agent counts as gone if its connection has ended and the guest has not within this time.
    pub fn expect_end_within(&mut self, power_off: Duration) {
        self.power_off = power_off;
    }

    /// The session ends so long after its terminal has gone: the program gets SIGHUP then, and may ignore it.
    pub fn end_with_terminal(&mut self, grace: Duration) {
        // SAFETY: a system call without pointers.
        let is_terminal = |fd: &RawFd| unsafe { libc::isatty(*fd) } == 1;
        self.terminals = (libc::STDIN_FILENO..=libc::STDERR_FILENO)
            .filter(is_terminal)
            .collect();
        self.grace = grace;
    }

    /// What the program writes goes to `log`, too.
    pub fn copy_to(&mut self, log: Arc<dyn Sink>) {
        self.log = Some(log);
    }

    /// Calls `tell` when the program has started.
    pub fn tell_start(&mut self, tell: impl FnOnce() + 'static) {
        self.tell_start = Some(Box::new(tell));
    }

    /// What the escape key's help says.
    pub fn set_help(&mut self, help: &'static str) {
        self.help = Some(help);
    }

    /// Carries streams and signals until the program has ended and its output is written, or the session ends otherwise:
    /// because `machine` becomes readable, for one. A terminal on stdin is raw meanwhile.
    pub fn attend(&mut self, machine: BorrowedFd, signals: &mut Signals) -> io::Result<Ended> {
        if let Some(terminal) = &mut self.terminal {
            terminal.make_raw()?;
        }
        let ended = self.carry(machine, signals);
        for output in &mut self.outputs {
            // Without its terminal there is nothing to undo.
            let _ = output.undo();
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.restore();
        }
        ended
    }

    /// Why the program's output could not be written, if that was so. A reader that went away is no reason: the program was
    /// told.
    pub fn take_output_error(&mut self) -> Option<io::Error> {
        self.output_error.take()
    }

    fn carry(&mut self, machine: BorrowedFd, signals: &mut Signals) -> io::Result<Ended> {
        loop {
            let is_written = self.outputs.iter().all(|output| output.unwritten() == 0);
            if is_written && let Some(ended) = self.ended.take() {
                return Ok(ended);
            }
            if let Some((_, since)) = &self.lost
                && since.elapsed() >= self.power_off
                && let Some((error, _)) = self.lost.take()
            {
                self.ended.get_or_insert(Ended::Agent(error));
                continue;
            }
            let without = self
                .end_without
                .map(|end| end.saturating_duration_since(Instant::now()));
            if without.is_some_and(|left| left.is_zero()) {
                return Ok(Ended::Signal(SIGHUP));
            }
            let is_open = self.ended.is_none() && self.lost.is_none();
            if is_open {
                self.answer();
                self.give_room();
                if let Err(error) = self.channel.write() {
                    self.lose(error);
                }
            }
            let stdin = stdin();
            let is_elsewhere = self.is_elsewhere();
            let is_open = is_open && self.lost.is_none();
            let reads = is_open && self.channel.unsent() < ENOUGH && self.input.wanted();
            let [out, err] = self
                .outputs
                .each_ref()
                .map(|output| output.wanted().map(For::Writing));
            let channel = self.channel.stream().as_fd();
            let watched = [
                // It stays readable, and has nothing more to say once the end is known.
                self.ended.is_none().then_some(For::Reading(machine)),
                Some(For::Reading(signals.as_fd())),
                is_open.then_some(For::Reading(channel)),
                (is_open && self.channel.unsent() > 0).then_some(For::Writing(channel)),
                (reads && !is_elsewhere).then(|| For::Reading(stdin.as_fd())),
                out,
                err,
                wanted_stderr().map(|event| For::Reading(borrow(event))),
                signals.passed_on().map(For::Reading),
            ];
            let looks = is_elsewhere.then_some(FOREGROUND_LOOKS);
            let left = match &self.lost {
                Some((_, since)) => Some(self.power_off.saturating_sub(since.elapsed())),
                None => self
                    .patience
                    .filter(|_| !self.is_heard)
                    .map(|until| until.saturating_duration_since(Instant::now())),
            };
            let [over, sent, heard, _, typed, out, err, has_lines, passed_on] =
                wait(watched, looks.into_iter().chain(left).chain(without).min())?;
            if has_lines {
                start_wanted_stderr();
            }
            if (sent || passed_on)
                && let Some(ended) = self.obey_signals(signals)
            {
                return Ok(ended);
            }
            if is_elsewhere {
                self.look_at_terminal();
            }
            if heard {
                self.hear();
            } else if self.lost.is_none() && left.is_some_and(|left| left.is_zero()) {
                return Ok(Ended::Agent(io::ErrorKind::TimedOut.into()));
            }
            for (index, _) in [out, err]
                .into_iter()
                .enumerate()
                .filter(|(_, is_ready)| *is_ready)
            {
                if let Err(error) = self.outputs[index].write() {
                    self.close(index, error);
                }
            }
            // What the agent had said by then is heard first.
            if over && !heard && self.ended.is_none() {
                self.ended = Some(Ended::Machine);
            }
            if typed && self.input.read().into_iter().any(|command| self.quits(command)) {
                return Ok(Ended::Quit);
            }
        }
    }

    fn quits(&self, command: Command) -> bool {
        match (command, self.help) {
            (Command::Help, Some(help)) => {
                tell(help);
                false
            }
            _ => Menu::new(Place::Program, None).obey(command).is_some(),
        }
    }

    /// Gives the program the input that it reads.
    fn answer(&mut self) {
        let is_sent = match self.input.take() {
            Typed::Nothing => true,
            Typed::Bytes(bytes) => self.channel.send(&ToAgent::Input, &bytes),
            Typed::End => self.channel.send(&ToAgent::InputEnd, &[]),
        };
        debug_assert!(is_sent);
    }

    /// Takes what the agent says.
    fn hear(&mut self) {
        match self.channel.read() {
            Ok(true) => (),
            Ok(false) => return self.lose(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return self.lose(error),
        }
        loop {
            match self.channel.next() {
                Ok(Some((message, data))) => match message {
                    ToHost::Wants(bytes) => self.input.ask(bytes),
                    ToHost::Output(stream) => {
                        let output = &mut self.outputs[stream as usize];
                        output.take(data);
                        if let Some(log) = &self.log {
                            data.iter().for_each(|&byte| log.put(byte));
                            log.pause();
                        }
                        if output.is_overrun() {
                            return self.lose(io::Error::new(
                                io::ErrorKind::InvalidData,
                                "it sent more output than there is room for",
                            ));
                        }
                    }
                    ToHost::Started => self.tell_start.take().into_iter().for_each(|tell| tell()),
                    ToHost::OutputEnd(_) | ToHost::PowersOff | ToHost::Done => {}
                    ToHost::Exited(status) => self.ended = Some(Ended::Exited(status)),
                    ToHost::Killed(signal) => self.ended = Some(Ended::Killed(signal)),
                    ToHost::Failed(failure) => self.ended = Some(Ended::NotStarted(failure)),
                },
                Ok(None) => break,
                Err(error) => return self.lose(error),
            }
        }
        self.is_heard = self.channel.is_greeted();
    }

    /// The connection is of no use any more. It ends with the guest, whose end tells more.
    fn lose(&mut self, error: io::Error) {
        if self.ended.is_some() {
            return;
        }
        match error.kind() {
            io::ErrorKind::InvalidData => self.ended = Some(Ended::Agent(error)),
            _ => self.lost = Some((error, Instant::now())),
        }
    }

    /// Gives the agent room for more output.
    fn give_room(&mut self) {
        for output in &mut self.outputs {
            let stream = output.stream();
            if let Some(bytes) = output.take_room() {
                let is_sent = self.channel.send(&ToAgent::Room { stream, bytes }, &[]);
                debug_assert!(is_sent);
            }
        }
    }

    /// Tells the agent that an output could not be written.
    fn close(&mut self, index: usize, error: io::Error) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            self.output_error = Some(error);
        }
        let stream = self.outputs[index].stream();
        let is_sent = self.channel.send(&ToAgent::Closed { stream }, &[]);
        debug_assert!(is_sent);
    }

    /// Whether stdin is a terminal that another process has at the moment.
    fn is_elsewhere(&self) -> bool {
        let waits = self.terminal.as_ref().is_some_and(Terminal::waits_for_foreground);
        waits || self.input.is_passed() && !is_in_foreground(stdin().as_fd())
    }

    fn look_at_terminal(&mut self) {
        if let Some(terminal) = &mut self.terminal
            && terminal.waits_for_foreground()
            && terminal.is_in_foreground()
        {
            if let Err(error) = terminal.look_again() {
                log::warn!("cannot make the terminal raw again: {error}");
            }
            self.outputs.iter_mut().for_each(Output::redo);
            self.resize();
        }
    }

    /// Tells the program how large the terminal is now.
    fn resize(&mut self) {
        if self.has_terminal
            && let Some((rows, columns)) = terminal_size()
        {
            let is_sent = self
                .channel
                .send(&ToAgent::Resize(WindowSize { rows, columns }), &[]);
            debug_assert!(is_sent);
        }
    }

    /// Obeys the signals that have arrived. Returns how the session ends, if it does.
    fn obey_signals(&mut self, signals: &mut Signals) -> Option<Ended> {
        while let Some(request) = signals.take() {
            match request {
                Request::End(number) => {
                    let mut is_enough = !self.is_heard || self.lost.is_some() || self.ended.is_some();
                    for ((signal, patience), count) in PATIENCE.iter().zip(&mut self.asked_to_end) {
                        if *signal == number {
                            *count += 1;
                            is_enough |= *count >= *patience;
                        }
                    }
                    if number == SIGHUP && self.terminals.iter().any(|&fd| has_hung_up(fd)) {
                        self.end_without.get_or_insert(Instant::now() + self.grace);
                    }
                    let is_sent = u8::try_from(number)
                        .is_ok_and(|number| self.channel.send(&ToAgent::Signal(number), &[]));
                    if is_enough || !is_sent {
                        return Some(Ended::Signal(number));
                    }
                }
                Request::Suspend => {
                    for index in 0..self.outputs.len() {
                        if let Err(error) = self.outputs[index].undo() {
                            self.close(index, error);
                        }
                    }
                    if let Some(terminal) = &mut self.terminal {
                        terminal.lend();
                    }
                    suspend();
                }
                Request::Resume => self.look_at_terminal(),
                Request::Resize => self.resize(),
            }
        }
        None
    }
}

/// Whether a terminal has been closed.
fn has_hung_up(terminal: RawFd) -> bool {
    let mut entry = libc::pollfd {
        fd: terminal,
        events: 0,
        revents: 0,
    };
    // SAFETY: one entry, as it says.
    unsafe { libc::poll(&mut entry, 1, 0) == 1 && entry.revents & libc::POLLHUP != 0 }
}
