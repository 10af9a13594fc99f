//! A line that a person types without seeing it.

use std::fs::File;
use std::io::{self, Read, Write, stderr, stdin};
use std::os::fd::AsFd;

use crate::commands::{Error, system};
use crate::console::{For, Request, Signals, Terminal, suspend, wait};

const WHAT: &str = "read the password";
/// What the keys send.
const END: u8 = 0x04;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];
const ERASE_LINE: u8 = 0x15;

/// Asks for it by these words, and reads it from the terminal on stdin. The terminal has its modes back however that ends.
pub fn read_secret(words: &str) -> Result<String, Error> {
    let mut signals = Signals::catch().map_err(system(WHAT))?;
    let mut terminal = Terminal::on_stdin();
    if let Some(terminal) = &mut terminal {
        terminal.make_quiet().map_err(system(WHAT))?;
    }
    let asked = stderr().write_all(words.as_bytes()).map_err(system(WHAT));
    let typed = asked.and_then(|()| typed(&mut signals, terminal.as_mut()));
    // What was typed was not shown, and its end neither. Nothing depends on it.
    let _ = stderr().write_all(b"\n");
    drop(terminal);
    signals.release();
    typed
}

fn typed(signals: &mut Signals, mut terminal: Option<&mut Terminal>) -> Result<String, Error> {
    let file = stdin().as_fd().try_clone_to_owned().map(File::from);
    let mut file = file.map_err(system(WHAT))?;
    let mut line = Line::default();
    loop {
        let watched = [
            Some(For::Reading(file.as_fd())),
            Some(For::Reading(signals.as_fd())),
        ];
        let [is_typed, is_signal] = wait(watched, None).map_err(system(WHAT))?;
        if is_signal {
            match signals.take() {
                Some(Request::End(number)) => return Err(Error::Interrupted(number)),
                Some(Request::Suspend) => {
                    if let Some(terminal) = &mut terminal {
                        terminal.lend();
                    }
                    suspend();
                }
                Some(Request::Resume) => {
                    if let Some(terminal) = &mut terminal {
                        terminal.look_again().map_err(system(WHAT))?;
                    }
                }
                Some(Request::Resize) | None => {}
            }
        }
        if is_typed {
            let mut bytes = [0; 256];
            let count = file.read(&mut bytes).map_err(system(WHAT))?;
            if count == 0 || bytes[..count].iter().any(|&byte| line.is_ended_by(byte)) {
                return line.text();
            }
        }
    }
}

#[derive(Default)]
struct Line(Vec<u8>);

impl Line {
    fn is_ended_by(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' | b'\r' | END => return true,
            ERASE_LINE => self.0.clear(),
            byte if BACKSPACE.contains(&byte) => {
                // All bytes of a character (RFC 3629).
                while self.0.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            byte => self.0.push(byte),
        }
        false
    }

    fn text(self) -> Result<String, Error> {
        let text = String::from_utf8(self.0);
        text.map_err(|_| system(WHAT)(io::Error::other("it is no text (UTF-8)")))
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn what_is_erased_does_not_count_and_a_line_ends_once() {
        for (typed, text) in [
            ("secret\n", "secret"),
            ("sx\u{7f}ecré\u{8}et\r", "secret"),
            ("wrong\u{15}right\u{4}", "right"),
            ("\u{7f}\u{7f}a\n", "a"),
        ] {
            let mut line = Line::default();
            let ends: Vec<_> = typed.bytes().map(|byte| line.is_ended_by(byte)).collect();
            assert_eq!(ends.iter().filter(|ends| **ends).count(), 1, "{typed:?}");
            assert_eq!(line.text().unwrap(), text);
        }
    }
}
