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
use crate::devices::sink::Sink;
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
    asked: Option<Asked>,
    /// The writer waits, and with it all that is queued.
    held: bool,
    /// What the guest did to the terminal is to be undone for now.
    wants_undone: bool,
    /// It is undone.
    is_undone: bool,
}

/// What of the output a terminal may answer.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// When the last of it was written.
    pub at: Instant,
    /// How often the terminal was asked for its identity.
    pub identities: u64,
}

struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    undone: Condvar,
    /// Readable once the writer has ended.
    finished: EventFd,
    /// Written to make the writer give up on a reader that does not read.
    hurry: EventFd,
}

/// What the writer does next.
enum Task {
    Write,
    Undo,
    Redo,
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
                undone: Condvar::new(),
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

    /// What of the written output a terminal may answer. Complete once the writer has [finished](Self::finished).
    pub fn asked(&self) -> Option<Asked> {
        self.queue.lock().asked
    }

    /// Undoes what the guest did to a terminal, and holds the output back until [`GuestOutput::go_on`]. Waits for that for
    /// `patience` at most, since the terminal may be stalled.
    pub fn undo_for_now(&self, patience: Duration) {
        let mut state = self.queue.lock();
        (state.held, state.wants_undone) = (true, true);
        self.queue.filled.notify_all();
        // An error of the wait is that another thread panicked.
        let _ = self
            .queue
            .undone
            .wait_timeout_while(state, patience, |state| !state.is_undone);
    }

    /// Lets the output go on. With `redo`, what was undone is done again before.
    pub fn go_on(&self, redo: bool) {
        let mut state = self.queue.lock();
        state.held = false;
        state.wants_undone &= !redo;
        self.queue.filled.notify_all();
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
        // Whether the terminal is as the person had it: all is undone, and nothing was written since.
        let mut is_the_persons = false;
        while let Some(task) = self.take(&mut bytes) {
            is_the_persons = matches!(task, Task::Undo);
            match task {
                Task::Write => {
                    if let Err(error) = self.write(&mut stdout, &bytes, &mut modes) {
                        let mut state = self.lock();
                        state.error = Some(error);
                        state.released = true;
                        drop(state);
                        self.drained.notify_all();
                        break;
                    }
                }
                Task::Undo => {
                    self.change_terminal(&modes.undo(), &mut stdout);
                    self.lock().is_undone = true;
                    self.undone.notify_all();
                }
                Task::Redo => {
                    self.change_terminal(&modes.redo(), &mut stdout);
                    self.lock().is_undone = false;
                }
            }
            if modes.take_asked() {
                self.lock().asked = Some(Asked {
                    at: Instant::now(),
                    identities: modes.identities_asked(),
                });
            }
        }
        // The shell's screen may be there, where undoing once more would move the cursor.
        if !is_the_persons {
            self.change_terminal(&modes.undo(), &mut stdout);
        }
        let _ = self.finished.write(1);
    }

    /// Says what to do next, `None` at the end. To write is what it swaps for `bytes`.
    fn take(&self, bytes: &mut Vec<u8>) -> Option<Task> {
        bytes.clear();
        let mut state = self.lock();
        while !state.closed {
            match (state.wants_undone, state.is_undone) {
                (true, false) => return Some(Task::Undo),
                (false, true) => return Some(Task::Redo),
                _ if !state.held && !state.queue.is_empty() => break,
                _ => state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
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
        (!bytes.is_empty()).then_some(Task::Write)
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

    /// Writes bytes that only a terminal gets, and waits until it has everything.
    fn change_terminal(&self, bytes: &[u8], stdout: &mut File) {
        // Fails on a terminal that hung up or is stalled, which cannot be helped.
        if stdout.is_terminal() && self.write(stdout, bytes, &mut GuestModes::default()).is_ok() {
            // SAFETY: a system call without pointers.
            unsafe { libc::tcdrain(stdout.as_raw_fd()) };
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
