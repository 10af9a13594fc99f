//! What Coracle itself says to the person: lines on stderr.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use super::wait::{For, wait};

/// How long a stalled terminal may hold us up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints a line, unless stderr is closed, full or stalled: then nobody is there to be told, and the guest and the
/// exit code matter more.
pub fn tell(line: impl fmt::Display) {
    let line = format!("{line}\n");
    let mut stderr = io::stderr();
    if let Ok([true]) = wait([Some(For::Writing(stderr.as_fd()))], Some(PATIENCE)) {
        let _ = stderr.write_all(line.as_bytes());
    }
}
