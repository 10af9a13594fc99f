//! What the guest prints, in a file. Its positions are counts of what was printed since the start: old parts become holes, which
//! take no room, so the file is bounded although its length grows, and a reader can go on where it was.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use super::Handover;
use super::console_times::{Times, punch};
use super::process::Watch;
use crate::confine::filter;
use crate::console::{Console, Pace, Read, Reader, with_all_signals_blocked};
use crate::threads;

/// How many bytes of the output are kept at least.
pub const KEPT: u64 = 1 << 20;
/// What is older becomes a hole in pieces of this size.
const PIECE: u64 = 64 << 10;
/// Bytes of a line before a position of which its start is looked for.
const LINE: u64 = 4096;
/// Bytes that are read at once.
const READ: usize = 64 << 10;

/// Starts the thread that writes what `console` prints to `file`, and when to `times`. It ends after the console has ended. The guest never waits
/// for it: if it cannot keep up, a line in the file says how much is missing. `init_runs` is called once `handover` finds that in the
/// output.
pub fn keep(
    console: &Console,
    file: File,
    times: File,
    handover: Handover,
    init_runs: Option<impl FnOnce() + Send + 'static>,
) -> io::Result<JoinHandle<()>> {
    let reader = console.attach(Pace::Misses);
    let write = move || {
        filter::narrow(filter::Kind::Console);
        write_all(reader, Log::new(file, Times::new(times)), handover, init_runs);
    };
    with_all_signals_blocked(|| thread::Builder::new().name("log".into()).spawn(write))
        .map_err(threads::not_started)
}

fn write_all(mut reader: Reader, log: Log, mut handover: Handover, mut init_runs: Option<impl FnOnce()>) {
    let mut log = Some(log);
    let mut bytes = Vec::new();
    // Without a log it reads on as long as somebody waits for init.
    while log.is_some() || init_runs.is_some() {
        let missed = match reader.read(&mut bytes) {
            Read::Ended => return,
            Read::Woken => continue,
            Read::Bytes { missed } => missed,
        };
        if let Some(Err(error)) = log.as_mut().map(|log| log.append_after(missed, &bytes)) {
            log::warn!("the console's log ends here, because it cannot be written: {error}");
            log = None;
        }
        if init_runs.is_some() && bytes.iter().any(|&byte| handover.takes(byte)) {
            init_runs.take().into_iter().for_each(|tell| tell());
        }
    }
}

struct Log {
    file: File,
    /// None once they could not be written.
    times: Option<Times>,
    end: u64,
    /// What is before this position is a hole.
    start: u64,
}

impl Log {
    fn new(file: File, times: Times) -> Self {
        Self {
            file,
            times: Some(times),
            end: 0,
            start: 0,
        }
    }

    /// Appends bytes before which some are missing.
    fn append_after(&mut self, missed: u64, bytes: &[u8]) -> io::Result<()> {
        let noted = self
            .times
            .as_mut()
            .map(|times| times.note(self.end, SystemTime::now(), self.start));
        if let Some(Err(error)) = noted {
            log::warn!("the times of the console's log end here, because they cannot be written: {error}");
            self.times = None;
        }
        if missed > 0 {
            self.append(missing(missed).as_bytes())?;
        }
        self.append(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.end += bytes.len() as u64;
        let start = kept_from(self.end);
        if start > self.start {
            punch(&self.file, self.start, start)?;
            self.start = start;
        }
        Ok(())
    }
}

/// Where the part begins that is kept of a log of this length.
fn kept_from(end: u64) -> u64 {
    end.saturating_sub(KEPT) / PIECE * PIECE
}

/// What stands in place of output that is not there.
pub(super) fn missing(bytes: u64) -> String {
    format!("\n[{bytes} bytes of the console's output are missing here]\n")
}

/// Reads a log, also while it is written.
pub struct LogReader {
    file: File,
    at: u64,
}

impl LogReader {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let mut reader = Self { file, at: 0 };
        reader.go_to_first_line()?;
        Ok(reader)
    }

    /// Reads the next bytes; none at the end of what is there. If some before them are not kept any more, a line says how many.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let from = self.at;
        let bytes = self.read_kept()?;
        let missed = self.at.saturating_sub(from + bytes.len() as u64);
        match missed > 0 && !bytes.is_empty() {
            true => Ok([missing(missed).as_bytes(), &bytes].concat()),
            false => Ok(bytes),
        }
    }

    /// Goes to the start of the last `count` lines. A last line that has no end yet is one of them.
    pub fn go_to_last_lines(&mut self, count: usize) -> io::Result<()> {
        let mut starts = std::collections::VecDeque::from([self.at]);
        loop {
            let begin = self.at;
            let bytes = self.read_kept()?;
            if bytes.is_empty() {
                break;
            }
            // What was skipped lies between.
            let from = self.at - bytes.len() as u64;
            debug_assert!(from >= begin);
            for (index, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
                starts.push_back(from + index as u64 + 1);
                if starts.len() > count.saturating_add(1) {
                    starts.pop_front();
                }
            }
        }
        // Behind the last line's end no other line begins.
        let end = self.at;
        if starts.back() == Some(&end) {
            starts.pop_back();
        } else if starts.len() > count {
            starts.pop_front();
        }
        self.at = match count {
            0 => end,
            _ => starts.front().copied().unwrap_or(end),
        };
        Ok(())
    }

    /// Goes to the start of the line in which this position is, or of the first line that is kept.
    pub fn go_to_line_of(&mut self, position: u64) -> io::Result<()> {
        let oldest = kept_from(self.end()?);
        if position <= oldest {
            return self.go_to_first_line();
        }
        let mut before = vec![0; (position - oldest).min(LINE) as usize];
        let begin = position - before.len() as u64;
        self.file.read_exact_at(&mut before, begin)?;
        let end_of_line = before.iter().rposition(|&byte| byte == b'\n');
        self.at = match end_of_line {
            Some(index) => begin + index as u64 + 1,
            // The line is longer, or begins where the log does.
            None => begin,
        };
        Ok(())
    }

    /// Where in the log the next byte is.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Tells when more is written.
    pub fn watch(&self) -> io::Result<Watch> {
        Watch::on(format!("/proc/self/fd/{}", self.file.as_raw_fd()).as_ref())
    }

    /// Reads the next bytes that are kept; none at the end of what is there.
    fn read_kept(&mut self) -> io::Result<Vec<u8>> {
        loop {
            self.skip_hole()?;
            let bytes = self.read_here()?;
            if !bytes.is_empty() || self.at >= self.end()? {
                return Ok(bytes);
            }
        }
    }

    /// Reads bytes from here on, without those that are not kept any more.
    fn read_here(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; READ];
        let count = self.file.read_at(&mut bytes, self.at)?;
        bytes.truncate(count);
        // The writer may have made a hole here meanwhile, of which zeroes were read. It does so after it has made the file longer.
        let gone = kept_from(self.end()?).saturating_sub(self.at).min(count as u64);
        bytes.drain(..gone as usize);
        self.at += count as u64;
        Ok(bytes)
    }

    fn end(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Goes to where the file has something.
    fn skip_hole(&mut self) -> io::Result<()> {
        // SAFETY: a system call without pointers.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), self.at as libc::off_t, libc::SEEK_DATA) };
        match found {
            // There is nothing behind it.
            -1 if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => {
                self.at = self.end()?;
                Ok(())
            }
            -1 => Err(io::Error::last_os_error()),
            found => {
                self.at = found as u64;
                Ok(())
            }
        }
    }

    fn go_to_first_line(&mut self) -> io::Result<()> {
        self.at = self.end()?.saturating_sub(KEPT);
        self.skip_hole()?;
        match self.at {
            0 => Ok(()),
            _ => self.skip_part_of_a_line(),
        }
    }

    fn skip_part_of_a_line(&mut self) -> io::Result<()> {
        let bytes = self.read_kept()?;
        let begin = self.at - bytes.len() as u64;
        let length = bytes
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        self.at = begin + length as u64;
        Ok(())
    }
}

#[cfg(test)]
#[path = "console_log_test.rs"]
mod tests;
