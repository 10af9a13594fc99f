//! Lines for the person at the console. PID 1 must not die because nobody reads them.

use std::fmt::Display;
use std::io::{self, Write};

use nix::sys::utsname::uname;

/// Writes the line that says that user space runs: the marker that boot time is measured to.
pub fn first_line() {
    let Ok(system) = uname() else { return };
    // Made whole before it is written, so that it is one write.
    let line = format!("Coracle guest: Linux {}\n", system.release().to_string_lossy());
    let _ = nix::unistd::write(io::stdout(), line.as_bytes());
}

/// Writes one line to stdout.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes one line about something that went wrong to stderr.
pub fn complain(line: impl Display) {
    let _ = io::stderr().write_all(format!("coracle-init: {line}\n").as_bytes());
}
