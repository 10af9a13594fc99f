//! The guest's console output on its way to stdout.
//!
//! vCPUs put bytes into a bounded queue; one thread writes them out in large pieces. A reader that is slow
//! slows the guest down and loses nothing. One queue and one thread serve all boots of a run.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::guest_modes::GuestModes;
use super::signals::with_all_blocked;
use super::wait::{For, borrow, wait};
use crate::devices::serial::Sink;
use crate::threads;

/// Queued bytes from which on vCPUs wait.
const QUEUE_LIMIT: usize = 64 << 10;
/// Bytes that a pipe takes whole, and without blocking, once it is ready for writing: `PIPE_BUF`.
const PIECE: usize = 4096;
/// How long bytes may wait for those that follow.
const MOMENT: Duration = Duration::from_millis(1);
/// Bytes at the end of the output that are kept for [`crate::diagnosis`].
const TAIL: usize = 8 << 10;

/// What becomes of queued bytes when the run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// All are written, however long the reader takes.
    All,
    /// Those are written that the reader takes at once.
    AtOnce,
}

#[derive(Default)]
struct State {
    queue: Vec<u8>,
    /// The guest has paused, so no more bytes follow immediately, and the writer need not wait for them.
    paused: bool,
    /// The last bytes that the writer took out of the queue.
    tail: VecDeque<u8>,
    /// Bytes since the boot began.
    of_this_boot: usize,
    /// Whether vCPUs go on without waiting for room.
    released: bool,
    closed: bool,
    error: Option<io::Error>,
    /// When the last bytes were written that a terminal may answer.
    asked: Option<Instant>,
}

struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    /// Readable once the writer has ended.
    finished: EventFd,
    /// Written to make the writer give up on a reader that does not read.
    hurry: EventFd,
}

/// The queue and its writer.
pub struct GuestOutput {
    queue: Arc<Queue>,
}

/// The vCPUs' end of the queue.
struct Entry(Arc<Queue>);

impl GuestOutput {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            queue: Arc::new(Queue {
                state: Mutex::default(),
                filled: Condvar::new(),
                drained: Condvar::new(),
                finished: EventFd::new(EFD_NONBLOCK)?,
                hurry: EventFd::new(EFD_NONBLOCK)?,
            }),
        })
    }

    /// Starts the thread that writes what is and will be queued to `stdout`.
    pub fn write_to(&self, stdout: OwnedFd) -> io::Result<()> {
        let queue = self.queue.clone();
        let write = move || queue.write_all(File::from(stdout));
        with_all_blocked(|| thread::Builder::new().name("console".into()).spawn(write))
            .map(drop)
            .map_err(threads::not_started)
    }

    /// Where the serial port puts its bytes.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(Entry(self.queue.clone()))
    }

    /// Becomes readable when everything is written after [`GuestOutput::close`], or when writing failed.
    pub fn finished(&self) -> &EventFd {
        &self.queue.finished
    }

    /// Why writing failed, if it did.
    pub fn take_error(&self) -> Option<io::Error> {
        self.queue.lock().error.take()
    }

    /// When the last bytes were written that a terminal may answer, once the writer has [finished](Self::finished).
    pub fn asked(&self) -> Option<Instant> {
        self.queue.lock().asked
    }

    /// The next boot begins. The vCPUs of the boot before have been released and have stopped.
    pub fn begin_boot(&self) {
        self.sink().hold();
        self.queue.lock().of_this_boot = 0;
    }

    /// Says that no more bytes come, and what becomes of those that are here.
    pub fn close(&self, drain: Drain) {
        if drain == Drain::AtOnce {
            // An eventfd's write fails only when it is readable already.
            let _ = self.queue.hurry.write(1);
        }
        self.queue.lock().closed = true;
        self.queue.filled.notify_all();
    }

    /// The last bytes that this boot has put into the queue.
    pub fn tail_of_boot(&self) -> Vec<u8> {
        let state = self.queue.lock();
        let tail = state.last_bytes();
        tail[tail.len().saturating_sub(state.of_this_boot)..].to_vec()
    }

    /// The last bytes that any boot has put into the queue.
    pub fn tail_of_run(&self) -> Vec<u8> {
        self.queue.lock().last_bytes()
    }
}

impl State {
    /// At most [`TAIL`] bytes.
    fn last_bytes(&self) -> Vec<u8> {
        let all = self.tail.len() + self.queue.len();
        let bytes = self.tail.iter().chain(&self.queue).copied();
        bytes.skip(all.saturating_sub(TAIL)).collect()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer's work: writes queued pieces to `stdout` until the queue is closed and empty, or until writing fails.
    /// Afterwards it undoes what the guest did to a terminal.
    fn write_all(&self, mut stdout: File) {
        let mut bytes = Vec::new();
        let mut modes = GuestModes::default();
        while self.take(&mut bytes) {
            if let Err(error) = self.write(&mut stdout, &bytes, &mut modes) {
                let mut state = self.lock();
                state.error = Some(error);
                state.released = true;
                drop(state);
                self.drained.notify_all();
                break;
            }
            if modes.take_asked() {
                self.lock().asked = Some(Instant::now());
            }
        }
        if stdout.is_terminal() {
            self.undo(&modes, &mut stdout);
        }
        let _ = self.finished.write(1);
    }

    /// Swaps the queue for `bytes`, which it empties; false when there will be no more.
    fn take(&self, bytes: &mut Vec<u8>) -> bool {
        bytes.clear();
        let mut state = self.lock();
        while state.queue.is_empty() && !state.closed {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A guest writes byte by byte. During this wait more bytes arrive, and all are written together.
        let hold = |state: &mut State| !state.paused && !state.closed && state.queue.len() < PIECE;
        (state, _) = self
            .filled
            .wait_timeout_while(state, MOMENT, hold)
            .unwrap_or_else(PoisonError::into_inner);
        state.paused = false;
        mem::swap(&mut state.queue, bytes);
        let State { tail, .. } = &mut *state;
        tail.extend(&bytes[bytes.len().saturating_sub(TAIL)..]);
        tail.drain(..tail.len().saturating_sub(TAIL));
        drop(state);
        self.drained.notify_all();
        !bytes.is_empty()
    }

    /// Writes all of `bytes`, and shows `modes` those that are written.
    fn write(&self, stdout: &mut File, mut bytes: &[u8], modes: &mut GuestModes) -> io::Result<()> {
        while !bytes.is_empty() {
            let ready = [
                Some(For::Writing(stdout.as_fd())),
                Some(For::Reading(borrow(&self.hurry))),
            ];
            let [writable, hurry] = wait(ready, None)?;
            if hurry && !writable {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            match stdout.write(&bytes[..bytes.len().min(PIECE)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    modes.watch(&bytes[..count]);
                    bytes = &bytes[count..];
                }
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

    /// Undoes what the guest did to the terminal, and waits until the terminal has everything.
    fn undo(&self, modes: &GuestModes, terminal: &mut File) {
        // Fails on a terminal that hung up or is stalled, which cannot be helped.
        if self
            .write(terminal, &modes.undo(), &mut GuestModes::default())
            .is_ok()
        {
            // SAFETY: a system call without pointers.
            unsafe { libc::tcdrain(terminal.as_raw_fd()) };
        }
    }
}

impl Sink for Entry {
    fn wait_for_room(&self) {
        let mut state = self.0.lock();
        while state.queue.len() >= QUEUE_LIMIT && !state.released {
            state = self.0.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn release(&self) {
        self.0.lock().released = true;
        self.0.drained.notify_all();
    }

    fn hold(&self) {
        let mut state = self.0.lock();
        // After an error nobody reads any more.
        state.released = state.error.is_some();
    }

    fn put(&self, byte: u8) {
        let mut state = self.0.lock();
        if state.error.is_some() || state.closed {
            return;
        }
        state.queue.push(byte);
        state.of_this_boot = state.of_this_boot.saturating_add(1);
        // Wakes the writer at the first byte, and again when there are as many bytes as it writes at once.
        if matches!(state.queue.len(), 1 | PIECE) {
            self.0.filled.notify_one();
        }
    }

    fn pause(&self) {
        let mut state = self.0.lock();
        if !state.queue.is_empty() && !mem::replace(&mut state.paused, true) {
            drop(state);
            self.0.filled.notify_one();
            // Lets the writer run at once if it shares a processor with this vCPU.
            thread::yield_now();
        }
    }
}

#[cfg(test)]
#[path = "output_test.rs"]
mod tests;
