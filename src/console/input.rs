//! What the person types, or a pipe delivers, on its way to the guest.

use std::collections::VecDeque;
use std::io;

use super::escape::{Command, Escape, KEYS};
use super::identity::Identities;
use super::keyboard::Keys;
use super::terminal::Terminal;
use super::wait::For;

/// Bytes a read takes at once.
const READ: usize = 4096;
/// Typed or pasted bytes that wait for a guest which does not read. They are read all the same, because the escape key
/// may be behind them.
const TERMINAL_BACKLOG: usize = 1 << 20;

/// What stdin is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nothing: stdin is not read.
    Nothing,
    /// Whatever stdin is. On a terminal Ctrl-A is the escape key if `escape` says so.
    Stdin { escape: bool },
}

/// Stdin, and the bytes of it that the guest has not taken yet.
pub struct Input {
    backlog: VecDeque<u8>,
    keys: Box<dyn Keys>,
    escape: Option<Escape>,
    identities: Identities,
    open: bool,
}

impl Input {
    pub fn new(source: Source, keys: Box<dyn Keys>) -> Self {
        Self {
            backlog: VecDeque::new(),
            keys,
            escape: (source == Source::Stdin { escape: true }).then(|| Escape::new(&KEYS)),
            identities: Identities::default(),
            open: source != Source::Nothing,
        }
    }

    /// How often the terminal has told its identity.
    pub fn identities(&self) -> u64 {
        self.identities.count()
    }

    /// How many bytes may be read from stdin now.
    ///
    /// What a terminal sends is ours alone while we are in the foreground and have not given it back. Anything else may have
    /// other readers after us, for example the loop of a shell: from it no more is read than the guest takes at this moment.
    pub fn wanted(&self, terminal: Option<&Terminal>) -> usize {
        match terminal {
            _ if !self.open => 0,
            Some(terminal) if terminal.gives_input() => {
                READ.min(TERMINAL_BACKLOG.saturating_sub(self.backlog.len()))
            }
            None if self.backlog.is_empty() => READ.min(self.keys.room()),
            _ => 0,
        }
    }

    /// Reads as many bytes as are [wanted](Self::wanted) and there, and returns the commands in them. The end of stdin,
    /// or an error, ends the input and not the guest.
    pub fn read(&mut self, terminal: Option<&Terminal>) -> Vec<Command> {
        let mut buffer = [0; READ];
        let wanted = self.wanted(terminal);
        if wanted == 0 {
            return Vec::new();
        }
        let mut typed = match read_stdin(&mut buffer[..wanted]) {
            Ok(0) => {
                self.open = false;
                return Vec::new();
            }
            Ok(count) => &buffer[..count],
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                return Vec::new();
            }
            // A terminal gives this error to a process that has just been put in the background.
            Err(_) if terminal.is_some_and(|terminal| !terminal.is_in_foreground()) => return Vec::new(),
            Err(error) => {
                log::warn!("cannot read stdin any more: {error}");
                self.open = false;
                return Vec::new();
            }
        };
        if terminal.is_some() {
            self.identities.watch(typed);
        }
        let mut commands = Vec::new();
        match (&mut self.escape, terminal) {
            (Some(escape), Some(_)) => {
                while let Some((command, rest)) = escape.filter(typed, &mut self.backlog) {
                    commands.push(command);
                    typed = rest;
                }
            }
            _ => self.backlog.extend(typed),
        }
        commands
    }

    /// What becomes ready when the guest takes more.
    pub fn takes_more(&self) -> Option<For<'_>> {
        self.keys.takes_more()
    }

    /// To be called when that was ready.
    pub fn note_that_it_takes_more(&self) {
        self.keys.note_that_it_takes_more();
    }

    /// Gives the guest what it takes.
    pub fn feed(&mut self) {
        while !self.backlog.is_empty() {
            let taken = self.keys.type_in(self.backlog.as_slices().0);
            if taken == 0 {
                break;
            }
            self.backlog.drain(..taken);
        }
    }
}

/// Reads stdin without the standard library's buffer, which would hide bytes from poll.
fn read_stdin(buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its whole length.
    let count = unsafe { libc::read(libc::STDIN_FILENO, buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
