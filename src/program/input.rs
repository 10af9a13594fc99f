//! stdin of this process, which a program in the guest reads.

use std::io::{self, IsTerminal, stdin};

use coracle_agent_protocol::DATA_MAX;

use crate::console::{Command, Escape, PROGRAM_KEYS};

/// Typed or pasted bytes that wait for a program which does not read. They are read all the same, because the escape key may
/// be behind them.
const BACKLOG: usize = 1 << 20;

/// What a program gets as its stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: its end, or a terminal at which nobody types.
    Nothing,
    /// This process' stdin. On a terminal there may be an escape key.
    Ours { has_escape: bool },
}

/// Stdin, and what of it the program has not asked for yet.
///
/// A pipe or a file may have other readers after us, for example the loop of a shell: from it no more is read than the program
/// reads. What is typed at a terminal that the program has is ours alone.
pub struct Input {
    /// The program reads up to so many bytes.
    asked: usize,
    /// Bytes typed ahead, for a program that has a terminal.
    backlog: Vec<u8>,
    escape: Option<Escape>,
    reads_ahead: bool,
    /// Stdin is the program's.
    is_passed: bool,
    has_ended: bool,
}

/// What goes to the program.
pub enum Typed {
    Nothing,
    Bytes(Vec<u8>),
    End,
}

impl Input {
    /// `is_raw` says that stdin is a terminal, and the program's. `has_terminal` says that the program has one of its own.
    pub fn new(stdin: Stdin, is_raw: bool, has_terminal: bool) -> Self {
        let has_escape = stdin == Stdin::Ours { has_escape: true };
        Self {
            asked: 0,
            backlog: Vec::new(),
            escape: (is_raw && has_escape).then(|| Escape::new(&PROGRAM_KEYS)),
            reads_ahead: is_raw,
            is_passed: stdin != Stdin::Nothing,
            has_ended: stdin == Stdin::Nothing && !has_terminal,
        }
    }

    /// Whether stdin is the program's.
    pub fn is_passed(&self) -> bool {
        self.is_passed
    }

    /// The program reads.
    pub fn ask(&mut self, bytes: u32) {
        self.asked = (bytes as usize).min(DATA_MAX);
    }

    /// Whether stdin is to be read.
    pub fn wanted(&self) -> bool {
        self.is_passed
            && !self.has_ended
            && match self.reads_ahead {
                true => self.backlog.len() < BACKLOG,
                false => self.asked > 0,
            }
    }

    /// Reads what is there, and returns the commands in it.
    pub fn read(&mut self) -> Vec<Command> {
        let limit = if self.reads_ahead { 4096 } else { self.asked };
        let mut buffer = vec![0; limit];
        // SAFETY: the buffer is writable for its whole length.
        let count = unsafe { libc::read(libc::STDIN_FILENO, buffer.as_mut_ptr().cast(), limit) };
        let mut typed = match usize::try_from(count) {
            Ok(0) => {
                self.has_ended = true;
                return Vec::new();
            }
            Ok(count) => &buffer[..count],
            Err(_) => {
                let error = io::Error::last_os_error();
                let is_passing = matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                );
                // A terminal gives an error to a process that has just been put in the background.
                if !is_passing && !stdin().is_terminal() {
                    log::warn!("cannot read stdin any more: {error}");
                    self.has_ended = true;
                }
                return Vec::new();
            }
        };
        let mut commands = Vec::new();
        match &mut self.escape {
            Some(escape) => {
                while let Some((command, rest)) = escape.filter(typed, &mut self.backlog) {
                    commands.push(command);
                    typed = rest;
                }
            }
            None => self.backlog.extend(typed),
        }
        commands
    }

    /// What the program gets now, if it reads.
    pub fn take(&mut self) -> Typed {
        if self.asked == 0 {
            return Typed::Nothing;
        }
        if self.backlog.is_empty() {
            if !self.has_ended {
                return Typed::Nothing;
            }
            self.asked = 0;
            return Typed::End;
        }
        let count = self.backlog.len().min(self.asked);
        self.asked = 0;
        Typed::Bytes(self.backlog.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Stdin = Stdin::Ours { has_escape: true };

    #[test]
    fn a_pipe_is_read_only_when_the_program_reads() {
        let mut input = Input::new(OURS, false, false);
        assert!(!input.wanted());
        input.ask(10);
        assert!(input.wanted());
    }

    #[test]
    fn a_program_that_gets_nothing_gets_the_end_or_an_idle_terminal() {
        let mut input = Input::new(Stdin::Nothing, false, false);
        input.ask(10);
        assert!(!input.wanted());
        assert!(matches!(input.take(), Typed::End));
        let mut input = Input::new(Stdin::Nothing, false, true);
        input.ask(10);
        assert!(!input.wanted());
        assert!(matches!(input.take(), Typed::Nothing));
    }

    #[test]
    fn a_program_gets_no_more_than_it_reads_and_then_the_end() {
        let mut input = Input::new(OURS, true, true);
        input.backlog.extend(b"typed");
        assert!(matches!(input.take(), Typed::Nothing));
        input.ask(3);
        assert!(matches!(input.take(), Typed::Bytes(bytes) if bytes == b"typ"));
        assert!(matches!(input.take(), Typed::Nothing));
        input.has_ended = true;
        input.ask(100);
        assert!(matches!(input.take(), Typed::Bytes(bytes) if bytes == b"ed"));
        input.ask(100);
        assert!(matches!(input.take(), Typed::End));
    }
}
