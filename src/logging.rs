//! The log: lines on stderr that name their level, limited in number unless the person asked for more.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use env_logger::Target;
use log::{Level, LevelFilter, Record};

use crate::clock::monotonic;
use crate::console::log_line;

/// Warnings and errors that one process writes. A guest can cause as many as it likes, by its mistakes and by booting
/// again and again.
const LINES: u32 = 64;

/// Lines that one process writes where the person asked for more than warnings, and [`limit`] was called.
const LINES_AT_ALL: u32 = 4096;

static LEFT: Budget = Budget::of(LINES);
static IS_LIMITED: AtomicBool = AtomicBool::new(false);

/// Starts the log at `level`, unless the environment (RUST_LOG) says otherwise.
pub fn start(level: LevelFilter) {
    env_logger::Builder::new()
        .filter_module("coracle", level)
        .parse_default_env()
        .format(|out, record| match allowance() {
            Allowance::None => Ok(()),
            Allowance::Line => write_line(out, record),
            Allowance::LastLine => {
                write_line(out, record)?;
                writeln!(out, "coracle: warn: {}", words_for_the_end())
            }
        })
        .target(Target::Pipe(Box::new(Stderr)))
        .init();
}

fn write_line(out: &mut impl Write, record: &Record) -> io::Result<()> {
    let level = record.level().as_str().to_lowercase();
    match record.level() {
        Level::Debug | Level::Trace => {
            let now = monotonic();
            let (seconds, microseconds) = (now.as_secs(), now.subsec_micros());
            writeln!(
                out,
                "coracle: {level}: [{seconds}.{microseconds:06}] {}",
                record.args()
            )
        }
        _ => writeln!(out, "coracle: {level}: {}", record.args()),
    }
}

/// The log's way to stderr. env_logger writes each record in one call.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !line.is_empty() {
            log_line(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Limits the number of lines from now on also for a person who asked for more than warnings. To be called when they go to a file,
/// which a guest could make grow without end.
pub fn limit() {
    if log::max_level() > LevelFilter::Warn {
        LEFT.0.store(LINES_AT_ALL, Ordering::Relaxed);
        IS_LIMITED.store(true, Ordering::Relaxed);
    }
}

/// A person who asks for more than warnings gets them all, except after [`limit`].
fn allowance() -> Allowance {
    match log::max_level() > LevelFilter::Warn && !IS_LIMITED.load(Ordering::Relaxed) {
        true => Allowance::Line,
        false => LEFT.take(),
    }
}

fn words_for_the_end() -> &'static str {
    match IS_LIMITED.load(Ordering::Relaxed) {
        true => "further lines are left out, because they would fill a file",
        false => "further warnings are left out: -v shows them",
    }
}

/// Whether a line may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowance {
    Line,
    LastLine,
    None,
}

/// The number of lines that may still be written.
struct Budget(AtomicU32);

impl Budget {
    const fn of(lines: u32) -> Self {
        Self(AtomicU32::new(lines))
    }

    fn take(&self) -> Allowance {
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match before {
            Ok(1) => Allowance::LastLine,
            Ok(_) => Allowance::Line,
            Err(_) => Allowance::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_says_when_the_last_line_is_written_and_gives_no_more() {
        let budget = Budget::of(3);
        let taken: Vec<_> = (0..5).map(|_| budget.take()).collect();
        assert_eq!(
            taken,
            [
                Allowance::Line,
                Allowance::Line,
                Allowance::LastLine,
                Allowance::None,
                Allowance::None
            ]
        );
    }
}
