//! Lines for the person at the console. PID 1 must not die because nobody reads them.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes one line to stdout.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes one line about something that went wrong to stderr.
pub fn complain(line: impl Display) {
    let _ = io::stderr().write_all(format!("coracle-init: {line}\n").as_bytes());
}
