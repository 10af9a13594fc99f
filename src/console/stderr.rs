//! What Coracle itself says to the person: lines on stderr.
//!
//! From [`write_by_thread`] on a thread writes them, so that a stderr that takes nothing, such as a terminal on which somebody
//! pressed Ctrl-S, stops neither a vCPU that logs nor the end of the process. The thread is started by the first line after
//! that. Before that, no guest waits for a line.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::signals::with_all_blocked;
use super::wait::{For, wait};
use crate::confine::filter;

/// How long [`tell`] and [`finish`] wait for a stalled stderr.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many bytes may wait for a stalled stderr. Further lines are dropped and counted.
const QUEUE_LIMIT: usize = 64 << 10;

static LINES: Lines = Lines::new();

/// Whether a thread writes the lines.
static BY_THREAD: AtomicBool = AtomicBool::new(false);

/// Readable when a thread that may not start the writer's wants it started.
static WANTED: OnceLock<EventFd> = OnceLock::new();

/// From now on a thread writes the lines.
pub fn write_by_thread() {
    match EventFd::new(EFD_NONBLOCK) {
        // Only the first one counts.
        Ok(wanted) => drop(WANTED.set(wanted)),
        // Then the lines of such threads are written when another one has a line, or at the end.
        Err(error) => log::debug!("cannot make an event for lines on stderr: {error}"),
    }
    BY_THREAD.store(true, Ordering::Relaxed);
}

/// Becomes readable when [`start_wanted`] is to be called.
pub(crate) fn wanted() -> Option<&'static EventFd> {
    WANTED.get()
}

/// Starts the writer for a thread that may not do that. To be called by the main thread.
pub(crate) fn start_wanted() {
    // Reading resets the event.
    let _ = WANTED.get().map(EventFd::read);
    LINES.start(io::stderr().as_fd());
}

/// Whether a thread writes the lines that are queued, now or soon.
fn has_thread() -> bool {
    BY_THREAD.load(Ordering::Relaxed) && LINES.start(io::stderr().as_fd())
}

/// Prints a line and waits until it is written, but not for long: if stderr is closed, full or stalled, nobody is there
/// to be told, and the guest and the exit code matter more.
pub fn tell(line: impl fmt::Display) {
    let line = format!("{line}\n");
    if has_thread() {
        LINES.put(line.into_bytes());
        LINES.wait_until_written(PATIENCE);
    } else {
        tell_at_once(&line);
    }
}

/// Prints a whole line, with its end, without waiting. For the log, in which vCPUs write, too.
pub fn log_line(line: &[u8]) {
    if has_thread() {
        LINES.put(line.to_vec());
    } else {
        write_at_once(line);
    }
}

/// Waits until all lines are written, but not for long. For the end of the process.
pub fn finish() {
    if !LINES.lock().queue.is_empty() {
        has_thread();
    }
    LINES.wait_until_written(PATIENCE);
}

/// Prints text without the thread: for a panic, which may be the thread's own, and when there is no thread.
pub(super) fn tell_at_once(line: &str) {
    write_at_once(line.as_bytes());
}

fn write_at_once(line: &[u8]) {
    let mut stderr = io::stderr();
    // poll(2) itself fails where the limit of open files is 0. stderr can be written all the same.
    let stalls = matches!(
        wait([Some(For::Writing(stderr.as_fd()))], Some(PATIENCE)),
        Ok([false])
    );
    if !stalls {
        let _ = stderr.write_all(line);
    }
}

/// Lines on their way, and the thread that writes them.
struct Lines {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

struct State {
    queue: VecDeque<Vec<u8>>,
    /// Bytes in the queue.
    size: usize,
    /// Lines that found no room.
    dropped: u64,
    writing: bool,
    started: bool,
}

impl Lines {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                size: 0,
                dropped: 0,
                writing: false,
                started: false,
            }),
            filled: Condvar::new(),
            written: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a line if there is room.
    fn put(&self, line: Vec<u8>) {
        let mut state = self.lock();
        // A line that is longer than the whole queue is taken when it is the only one.
        if state.size > 0 && state.size + line.len() > QUEUE_LIMIT {
            state.dropped += 1;
            return;
        }
        state.size += line.len();
        state.queue.push_back(line);
        drop(state);
        self.filled.notify_one();
    }

    /// Starts the thread that writes the lines to `to`, if it does not run yet, or has the main thread start it; false when that
    /// is not possible.
    fn start(&'static self, to: BorrowedFd) -> bool {
        if self.lock().started {
            return true;
        }
        if !filter::may_start_threads() {
            // An eventfd's write fails only when it is readable already.
            let _ = WANTED.get().map(|wanted| wanted.write(1));
            return true;
        }
        if mem::replace(&mut self.lock().started, true) {
            return true;
        }
        let started = to.try_clone_to_owned().and_then(|to| {
            let write = move || {
                filter::narrow(filter::Kind::Console);
                self.write_all(File::from(to));
            };
            with_all_blocked(|| thread::Builder::new().name("stderr".into()).spawn(write))
        });
        if started.is_err() {
            self.lock().started = false;
        }
        started.is_ok()
    }

    fn write_all(&self, mut to: File) {
        let mut state = self.lock();
        loop {
            let line = match state.queue.pop_front() {
                Some(line) => line,
                None if state.dropped > 0 => {
                    let dropped = mem::take(&mut state.dropped);
                    format!("coracle: {dropped} lines are missing here: stderr took none\n").into_bytes()
                }
                None => {
                    state.writing = false;
                    self.written.notify_all();
                    state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            state.writing = true;
            state.size = state.size.saturating_sub(line.len());
            drop(state);
            // An error is ignored, because stderr is where it would be told.
            let _ = write_waiting(&mut to, &line);
            state = self.lock();
        }
    }

    fn wait_until_written(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !state.queue.is_empty() || state.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (state, _) = self
                .written
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes all, also to a file that somebody made non-blocking.
fn write_waiting(to: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        wait([Some(For::Writing(to.as_fd()))], None)?;
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    fn lines() -> &'static Lines {
        Box::leak(Box::new(Lines::new()))
    }

    #[test]
    fn lines_are_written_in_order() {
        let lines = lines();
        let (mut reader, writer) = pipe().unwrap();
        lines.put(b"one\n".to_vec());
        assert!(lines.start(writer.as_fd()));
        lines.put(b"two\n".to_vec());
        let mut written = [0; 8];
        reader.read_exact(&mut written).unwrap();
        assert_eq!(&written, b"one\ntwo\n");
        lines.wait_until_written(Duration::MAX / 4);
    }

    #[test]
    fn a_line_longer_than_the_queue_is_not_dropped() {
        let lines = lines();
        lines.put(vec![b'x'; QUEUE_LIMIT + 1]);
        lines.put(b"one more\n".to_vec());
        let state = lines.lock();
        let lengths: Vec<_> = state.queue.iter().map(Vec::len).collect();
        assert_eq!(lengths, [QUEUE_LIMIT + 1]);
        assert_eq!(state.dropped, 1);
    }

    #[test]
    fn a_stalled_reader_holds_up_nobody_and_hears_later_what_is_missing() {
        let lines = lines();
        let (mut reader, writer) = pipe().unwrap();
        assert!(lines.start(writer.as_fd()));
        let line = [&[b'x'; 999][..], b"\n"].concat();
        // More than the queue and any pipe hold.
        for _ in 0..2000 {
            lines.put(line.clone());
        }
        assert!(lines.lock().size <= QUEUE_LIMIT);
        let mut written = String::new();
        while !written.contains("lines are missing here") {
            let mut part = [0; 4096];
            let count = reader.read(&mut part).unwrap();
            written.push_str(std::str::from_utf8(&part[..count]).unwrap());
        }
        let whole = written.lines().filter(|text| text.len() == 999).count();
        let missing: Vec<_> = written.lines().filter(|text| text.contains("missing")).collect();
        assert_eq!(
            missing,
            [format!(
                "coracle: {} lines are missing here: stderr took none",
                2000 - whole
            )]
        );
    }
}
