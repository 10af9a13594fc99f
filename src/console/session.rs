//! A person, or a script, attached to a guest's console by this process' stdin and stdout: from the first boot of a run to
//! the end of its last one.

/// A pager, and a recording.
mod past;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::escape::Command;
use super::far::Far;
use super::identity;
use super::input::{Input, Source};
use super::keyboard::Keys;
use super::menu::{Menu, Place, Steered};
use super::output::{Drain, GuestOutput};
use super::pager::Pager;
use super::record::Recording;
use super::signals::{Request, Signals, suspend};
use super::stderr::{self, tell};
use super::stream::{Console, Pace, Reader};
use super::terminal::{self, Terminal, forget_input, is_in_foreground};
use super::wait::{For, borrow, wait};

/// How often a run in the background looks whether it is in the foreground now. No event tells it: `fg` sends SIGCONT to a
/// job that was stopped, but some shells, bash among them, send none to a job that was running.
const FOREGROUND_LOOKS: Duration = Duration::from_millis(250);
/// How long the end waits for a reader before it gives the terminal back.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a terminal may take to answer. Later answers go to whoever reads the terminal next.
const ANSWERS: Duration = Duration::from_secs(1);

/// Why a run is to stop, if the guest itself did not end it.
#[derive(Debug)]
pub enum StopReason {
    /// The person typed the command to quit.
    Quit,
    /// The person typed the command to ask the guest to power off.
    Stop,
    /// The person typed the command to detach.
    Detach,
    /// A signal asked for the end; its number.
    Signal(i32),
    /// The output cannot be written any more.
    OutputLost(io::Error),
}

/// What a wait is for.
#[derive(Clone, Copy)]
enum Until<'a> {
    /// It becomes readable.
    Readable(&'a EventFd),
    /// The thread that writes the output has ended.
    OutputWritten,
    /// The terminal has told its identity so often.
    Identified(u64),
    /// Time passes.
    TimePassed,
}

/// What ended a wait.
pub enum Woken {
    /// What was waited for happened.
    Event,
    TimedOut,
    Stop(StopReason),
}

/// A reader and a keyboard of the console that are stdout and stdin. Dropping it gives the terminal back.
pub struct Session {
    console: Console,
    terminal: Option<Terminal>,
    output: GuestOutput,
    /// The thread that writes the output has not ended.
    is_writing: bool,
    input: Input,
    menu: Menu,
    /// The guest's name, where another process runs it.
    name: Option<String>,
    recording: Option<Recording>,
    /// A pager, which has the terminal meanwhile, and the terminal's modes before.
    pager: Option<(Pager, libc::termios)>,
    /// Readable when a thread beside this one has done its work. Made at the start, since a limit of open files may be
    /// reached later.
    done: Arc<EventFd>,
}

impl Session {
    /// Starts to write what `console` prints to stdout, and makes a terminal on stdin raw. To be called when `signals` are
    /// caught, since others would leave the terminal raw.
    pub fn open(
        console: &Console,
        source: Source,
        guest: Arc<dyn Steered>,
        _signals: &Signals,
    ) -> io::Result<Self> {
        let reader = console.attach(Pace::GuestWaits);
        let keys = Box::new(console.keyboard()?);
        let menu = Menu::new(Place::Run, Some(guest));
        Self::start(console, reader, Input::new(source, keys), menu, None)
    }

    /// The same for the console of a guest that another process runs. What is typed goes to `keys`.
    pub fn open_far(
        far: Far,
        keys: Box<dyn Keys>,
        guest: Arc<dyn Steered>,
        _signals: &Signals,
    ) -> io::Result<Self> {
        let source = Source::Stdin { escape: true };
        let menu = Menu::new(Place::Attached, Some(guest));
        let input = Input::new(source, keys);
        Self::start(&far.console, far.reader, input, menu, Some(far.name))
    }

    fn start(
        console: &Console,
        reader: Reader,
        input: Input,
        menu: Menu,
        name: Option<String>,
    ) -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        let mut session = Self {
            console: console.clone(),
            terminal: Terminal::on_stdin(),
            output: GuestOutput::start(reader, stdout)?,
            is_writing: true,
            input,
            menu,
            name,
            recording: None,
            pager: None,
            done: Arc::new(EventFd::new(EFD_NONBLOCK)?),
        };
        if let Some(terminal) = &mut session.terminal {
            terminal.make_raw()?;
        }
        Ok(session)
    }

    /// Why the output could not be written, if that was so.
    pub fn take_output_error(&self) -> Option<io::Error> {
        self.output.take_error()
    }

    /// Carries input to the guest until `event` becomes readable, or gives the reason why the run is to stop before.
    pub fn attend(&mut self, event: &EventFd, signals: &mut Signals) -> io::Result<Option<StopReason>> {
        match self.wait(Until::Readable(event), None, signals)? {
            Woken::Event | Woken::TimedOut => Ok(None),
            Woken::Stop(reason) => Ok(Some(reason)),
        }
    }

    /// The same for `patience` at most.
    pub fn attend_for(
        &mut self,
        event: &EventFd,
        patience: Duration,
        signals: &mut Signals,
    ) -> io::Result<Woken> {
        self.wait(Until::Readable(event), Some(patience), signals)
    }

    /// Does `work` between two boots, on a thread of its own. Meanwhile what is typed is kept for the next boot. When
    /// the run is to stop meanwhile, the session is closed, and the reason is given once `work` is done.
    pub fn stay_during<T: Send>(
        &mut self,
        signals: &mut Signals,
        work: impl FnOnce() -> T + Send,
    ) -> io::Result<(T, Option<StopReason>)> {
        let done = self.done.clone();
        self.beside(work, |session| {
            match session.wait(Until::Readable(&done), None, signals)? {
                Woken::Event | Woken::TimedOut => Ok(None),
                Woken::Stop(reason) => {
                    session.close(Drain::AtOnce, signals)?;
                    signals.release();
                    Ok(Some(reason))
                }
            }
        })
    }

    /// Closes the session, and meanwhile does `work` on a thread of its own. It may take as long as a disk takes that
    /// hangs: the terminal is the person's again before it is waited for, and the next signal ends the process.
    pub fn close_during<T: Send>(
        &mut self,
        drain: Drain,
        signals: &mut Signals,
        work: impl FnOnce() -> T + Send,
    ) -> io::Result<(T, Option<StopReason>)> {
        self.beside(work, |session| {
            let reason = session.close(drain, signals)?;
            signals.release();
            Ok(reason)
        })
    }

    /// Ends the console, writes what is left of the output, and gives the terminal back. The person, or a signal, can end the
    /// wait for a slow reader: then the reason is given, and output is lost.
    pub fn close(&mut self, drain: Drain, signals: &mut Signals) -> io::Result<Option<StopReason>> {
        self.console.end();
        self.recording = None;
        self.output.close(drain);
        if let Some(terminal) = &mut self.terminal
            && let Err(error) = terminal.make_quiet()
        {
            log::debug!("cannot change the terminal's modes: {error}");
        }
        let reason = match (self.wait_for_output(Some(PATIENCE), signals)?, drain) {
            (Woken::Stop(reason), _) => Some(reason),
            (Woken::Event, _) | (Woken::TimedOut, Drain::AtOnce) => None,
            (Woken::TimedOut, Drain::All) => {
                self.give_terminal_back();
                match self.wait_for_output(None, signals)? {
                    Woken::Stop(reason) => Some(reason),
                    Woken::Event | Woken::TimedOut => None,
                }
            }
        };
        if reason.is_some() {
            self.output.close(Drain::AtOnce);
            wait(
                [Some(For::Reading(borrow(self.output.finished())))],
                Some(PATIENCE),
            )?;
        }
        let reason = match reason {
            None => self.wait_for_answers(signals)?,
            reason => reason,
        };
        self.give_terminal_back();
        Ok(reason)
    }

    /// Does `work` on a thread of its own, which makes `done` readable at its end, and `meanwhile` on this one.
    fn beside<T: Send, R>(
        &mut self,
        work: impl FnOnce() -> T + Send,
        meanwhile: impl FnOnce(&mut Self) -> io::Result<R>,
    ) -> io::Result<(T, R)> {
        let done = self.done.clone();
        // The work before may have left the event readable. The read resets it, and fails if it was not readable.
        let _ = done.read();
        // The work is not moved into the thread's closure: if no thread can be started, that closure is dropped, and the work
        // must still be done on this thread.
        let work = Mutex::new(Some(work));
        let take = || work.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("beside".into())
                .spawn_scoped(scope, || {
                    let result = take().map(|work| work());
                    // An eventfd's write fails only when it is readable already.
                    let _ = done.write(1);
                    result
                });
            let (result, met) = match thread {
                Ok(thread) => {
                    let met = meanwhile(self);
                    (thread.join().ok().flatten(), met)
                }
                Err(error) => {
                    log::debug!("no thread for the end of a boot: {error}");
                    let _ = done.write(1);
                    let met = meanwhile(self);
                    (take().map(|work| work()), met)
                }
            };
            let result = result.ok_or_else(|| io::Error::other("a thread panicked"))?;
            Ok((result, met?))
        })
    }

    fn wait_for_output(&mut self, patience: Option<Duration>, signals: &mut Signals) -> io::Result<Woken> {
        self.wait(Until::OutputWritten, patience, signals)
    }

    /// Waits while the terminal may still answer what the guest has written. Where the answers can be read, the terminal is
    /// asked for its identity: when that comes, all answers to the guest have come.
    fn wait_for_answers(&mut self, signals: &mut Signals) -> io::Result<Option<StopReason>> {
        let Some(asked) = self.output.asked() else {
            return Ok(None);
        };
        let left = ANSWERS.saturating_sub(asked.at.elapsed());
        if left.is_zero() || self.terminal.is_none() && !io::stdout().is_terminal() {
            return Ok(None);
        }
        let is_read = self.terminal.as_ref().is_some_and(Terminal::gives_input);
        let (until, patience) = match is_read && ask_for_identity()? {
            true => (Until::Identified(asked.identities + 1), ANSWERS),
            false => (Until::TimePassed, left),
        };
        match self.wait(until, Some(patience), signals)? {
            Woken::Stop(reason) => Ok(Some(reason)),
            Woken::Event | Woken::TimedOut => Ok(None),
        }
    }

    fn give_terminal_back(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.restore();
        }
        // Answers come from the terminal that the guest's output goes to, which may be another one than that on stdin.
        if self.output.asked().is_some() {
            forget_input(io::stdout().as_fd());
        }
    }

    /// Waits for one thing, for `patience` at most. Meanwhile signals and commands are obeyed, and input goes to the guest or,
    /// from a terminal and between two boots, waits.
    fn wait(&mut self, until: Until, patience: Option<Duration>, signals: &mut Signals) -> io::Result<Woken> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            // Before the first wait, so that this boot gets what was typed during the boot before.
            self.input.feed();
            let event = match until {
                // A pager is not taken away from the person.
                _ if self.pager.is_some() => None,
                Until::Readable(event) => Some(event),
                Until::OutputWritten if !self.is_writing => return Ok(Woken::Event),
                Until::Identified(often) if self.input.identities() >= often => return Ok(Woken::Event),
                Until::OutputWritten | Until::Identified(_) | Until::TimePassed => None,
            };
            let stdin = io::stdin();
            let wanted = self.pager.is_none() && self.input.wanted(self.terminal.as_ref()) > 0;
            let watched = [
                event.map(|event| For::Reading(borrow(event))),
                Some(For::Reading(signals.as_fd())),
                self.is_writing
                    .then(|| For::Reading(borrow(self.output.finished()))),
                self.input.takes_more(),
                wanted.then(|| For::Reading(stdin.as_fd())),
                stderr::wanted().map(|event| For::Reading(borrow(event))),
                signals.passed_on().map(For::Reading),
                self.pager.as_ref().map(|(pager, _)| For::Reading(pager.ended())),
            ];
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let looks = self.is_elsewhere().then_some(FOREGROUND_LOOKS);
            let [
                happened,
                sent,
                finished,
                room,
                typed,
                has_lines,
                passed_on,
                has_looked,
            ] = wait(watched, left.into_iter().chain(looks).min())?;
            if has_lines {
                stderr::start_wanted();
            }
            if has_looked {
                self.end_pager();
            }
            self.is_writing &= !finished;
            if happened || finished && matches!(until, Until::OutputWritten) {
                return Ok(Woken::Event);
            }
            if finished && let Some(error) = self.output.take_error() {
                return Ok(Woken::Stop(StopReason::OutputLost(error)));
            }
            if (sent || passed_on)
                && let Some(reason) = self.obey_signals(signals)
            {
                return Ok(Woken::Stop(reason));
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Woken::TimedOut);
            }
            if self.is_elsewhere() {
                self.look_at_terminal();
            }
            if room {
                self.input.note_that_it_takes_more();
            }
            let commands = match typed {
                true => self.input.read(self.terminal.as_ref()),
                false => Vec::new(),
            };
            if let Some(reason) = commands.into_iter().find_map(|command| self.obey(command)) {
                return Ok(Woken::Stop(reason));
            }
        }
    }

    /// Whether there is a terminal that another process has at the moment.
    fn is_elsewhere(&self) -> bool {
        let is_elsewhere =
            |terminal: &Terminal| terminal.waits_for_foreground() || !terminal.is_in_foreground();
        self.pager.is_none() && self.terminal.as_ref().is_some_and(is_elsewhere)
    }

    /// Makes the terminal raw again, and as the guest had it, if we are in the foreground. An error is only logged: a
    /// terminal that went away while we were stopped also sends SIGHUP, which ends the run.
    fn look_at_terminal(&mut self) {
        if let Some(terminal) = &mut self.terminal
            && let Err(error) = terminal.look_again()
        {
            log::warn!("cannot make the terminal raw again: {error}");
        }
        if !self.is_elsewhere() && is_in_foreground(io::stdout().as_fd()) {
            self.output.go_on(true);
        }
    }

    /// Obeys a command of the escape key. Gives the reason if the session is to end.
    fn obey(&mut self, command: Command) -> Option<StopReason> {
        match self.menu.obey(command) {
            Some(Command::Quit) => Some(StopReason::Quit),
            Some(Command::Stop) => Some(StopReason::Stop),
            Some(Command::Detach) => {
                // What was typed before is for the guest.
                self.input.feed();
                Some(StopReason::Detach)
            }
            Some(Command::Past) => {
                if let Err(error) = self.start_pager() {
                    tell(format_args!("\ncoracle: no pager can be started: {error}"));
                }
                None
            }
            Some(Command::Record) => {
                self.start_or_end_recording();
                None
            }
            _ => None,
        }
    }

    fn obey_signals(&mut self, signals: &mut Signals) -> Option<StopReason> {
        while let Some(request) = signals.take() {
            match request {
                Request::End(number) => {
                    self.end_pager();
                    return Some(StopReason::Signal(number));
                }
                // The pager has the terminal.
                Request::Suspend | Request::Resume if self.pager.is_some() => {}
                Request::Suspend => {
                    if self.is_writing {
                        self.output.undo_for_now(PATIENCE);
                    }
                    if let Some(terminal) = &mut self.terminal {
                        terminal.lend();
                    }
                    suspend();
                    // In the background the output goes on, but the screen is the shell's.
                    self.output.go_on(false);
                }
                Request::Resume => self.look_at_terminal(),
                // A serial port has no size, so the guest could not be told.
                Request::Resize => {
                    if let (Some(recording), Some(size)) = (&self.recording, terminal::size()) {
                        recording.resize(size);
                    }
                }
            }
        }
        None
    }
}

/// Asks the terminal on stdout for its identity. False if there is none, or if it is stalled.
fn ask_for_identity() -> io::Result<bool> {
    let mut stdout = io::stdout();
    let is_ready =
        stdout.is_terminal() && wait([Some(For::Writing(stdout.as_fd()))], Some(Duration::ZERO))? == [true];
    Ok(is_ready
        && stdout
            .write_all(identity::REQUEST)
            .and_then(|()| stdout.flush())
            .is_ok())
}
