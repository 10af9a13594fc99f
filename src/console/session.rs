//! A person, or a script, attached to a guest's console.

use std::io;
use std::os::fd::AsFd;

use vmm_sys_util::eventfd::EventFd;

use super::escape::{Command, HELP};
use super::input::Input;
use super::output::{Output, borrow};
use super::signals::{Request, Signals, suspend};
use super::tell::tell;
use super::terminal::Terminal;
use super::wait::{For, wait};
use crate::devices::serial::SerialPort;

/// Why a session stopped waiting.
#[derive(Debug)]
pub enum End {
    /// What it waited for happened.
    Event,
    /// The person typed the command to quit.
    Quit,
    /// A signal asked for the end; its number.
    Signal(i32),
    /// The output cannot be written any more.
    OutputLost(io::Error),
}

/// The host's side of the console.
pub struct Session<'a> {
    signals: &'a mut Signals,
    terminal: Option<&'a Terminal>,
    output: &'a Output,
    input: Input,
}

impl<'a> Session<'a> {
    /// `escape`: whether Ctrl-A is the escape key on a terminal.
    pub fn new(
        signals: &'a mut Signals,
        terminal: Option<&'a Terminal>,
        output: &'a Output,
        escape: bool,
    ) -> Self {
        let input = Input::new(terminal.is_some(), escape);
        Self {
            signals,
            terminal,
            output,
            input,
        }
    }

    /// Carries input to `serial` until `event` becomes readable or the run is to end for another reason.
    pub fn wait(&mut self, event: &EventFd, serial: &SerialPort) -> io::Result<End> {
        loop {
            let stdin = io::stdin();
            let watched = [
                Some(For::Reading(borrow(event))),
                Some(For::Reading(self.signals.as_fd())),
                Some(For::Reading(borrow(self.output.finished()))),
                Some(For::Reading(borrow(serial.room()))),
                self.input.wants_more().then(|| For::Reading(stdin.as_fd())),
            ];
            let [happened, signal, finished, room, typed] = wait(watched, None)?;
            if happened {
                return Ok(End::Event);
            }
            if finished && let Some(error) = self.output.take_error() {
                return Ok(End::OutputLost(error));
            }
            if signal && let Some(end) = self.obey_signals() {
                return Ok(end);
            }
            if room {
                // The counter is not 0, because poll said so; reading resets it.
                let _ = serial.room().read();
            }
            if typed && self.input.read().into_iter().any(|command| self.obey(&command)) {
                return Ok(End::Quit);
            }
            self.input.feed(serial);
        }
    }

    fn obey_signals(&mut self) -> Option<End> {
        while let Some(request) = self.signals.take() {
            match (request, self.terminal) {
                (Request::End(number), _) => return Some(End::Signal(number)),
                (Request::Suspend, None) => suspend(),
                (Request::Suspend, Some(terminal)) => {
                    terminal.restore();
                    suspend();
                    make_raw(terminal);
                }
                (Request::Resume, Some(terminal)) => make_raw(terminal),
                (Request::Resume, None) => (),
            }
        }
        None
    }

    /// Obeys a command; true when it is the one to quit.
    fn obey(&self, command: &Command) -> bool {
        match command {
            Command::Quit => true,
            Command::Help => {
                tell(HELP);
                false
            }
        }
    }
}

/// A terminal that went away while we were stopped does not end the guest; the hang-up that it sends does.
fn make_raw(terminal: &Terminal) {
    if let Err(error) = terminal.make_raw() {
        log::warn!("cannot make the terminal raw again: {error}");
    }
}
