//! The guest's console output on its way to stdout.
//!
//! vCPUs put bytes into a bounded queue; one thread writes them out in large pieces. A reader that is slow
//! slows the guest down and loses nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::wait::{For, wait};
use crate::devices::serial::Sink;

/// Queued bytes from which on vCPUs wait.
const QUEUE_LIMIT: usize = 64 << 10;
/// Bytes that a pipe takes whole, and without blocking, once it is ready for writing: `PIPE_BUF`.
const PIECE: usize = 4096;
/// How long bytes may wait for those that follow.
const MOMENT: Duration = Duration::from_millis(1);
/// Bytes at the end of the output that are kept for [`crate::diagnosis`].
const TAIL: usize = 8 << 10;
/// How long a writer that is to write no more may take to notice.
const PATIENCE: Duration = Duration::from_secs(1);

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
    /// No more bytes follow those in the queue at once.
    paused: bool,
    /// The last bytes that the writer took out of the queue.
    tail: VecDeque<u8>,
    /// vCPUs wait no longer for room.
    released: bool,
    closed: bool,
    error: Option<io::Error>,
}

struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    /// Readable once the writer has ended.
    finished: EventFd,
    /// Written to make the writer give up on a reader that does not read.
    hurry: EventFd,
}

/// The queue and its writer.
pub struct Output {
    shared: Arc<Shared>,
}

/// The vCPUs' end of the queue.
struct Queue(Arc<Shared>);

impl Output {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
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
        let shared = self.shared.clone();
        let write = move || shared.write_all(File::from(stdout));
        thread::Builder::new()
            .name("console".into())
            .spawn(write)
            .map(drop)
    }

    /// Where the serial port puts its bytes.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(Queue(self.shared.clone()))
    }

    /// Becomes readable when everything is written after [`Output::close`], or when writing failed.
    pub fn finished(&self) -> &EventFd {
        &self.shared.finished
    }

    /// Why writing failed, if it did.
    pub fn take_error(&self) -> Option<io::Error> {
        self.shared.lock().error.take()
    }

    /// Lets vCPUs that wait for room go on, so that they can be stopped.
    pub fn release(&self) {
        self.shared.lock().released = true;
        self.shared.drained.notify_all();
    }

    /// Says that no more bytes come, and what becomes of those that are here.
    pub fn close(&self, drain: Drain) {
        if drain == Drain::AtOnce {
            // An eventfd's write fails only when it is readable already.
            let _ = self.shared.hurry.write(1);
        }
        self.shared.lock().closed = true;
        self.shared.filled.notify_all();
    }

    /// The last bytes of the output, after [`Output::close`] and when the writer has ended. One that is stuck in a
    /// stalled terminal is left behind.
    pub fn into_tail(self) -> Vec<u8> {
        let finished = wait([Some(For::Reading(borrow(self.finished())))], Some(PATIENCE));
        if !matches!(finished, Ok([true])) {
            log::debug!("the console's reader is stalled");
        }
        mem::take(&mut self.shared.lock().tail).into()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer: queued pieces to `stdout` until the queue is closed and empty, or writing fails.
    fn write_all(&self, mut stdout: File) {
        let mut bytes = Vec::new();
        while self.take(&mut bytes) {
            if let Err(error) = self.write(&mut stdout, &bytes) {
                let mut state = self.lock();
                state.error = Some(error);
                state.released = true;
                drop(state);
                self.drained.notify_all();
                break;
            }
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
        // A guest gives byte by byte: a moment, and what belongs together is written together.
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

    fn write(&self, stdout: &mut File, mut bytes: &[u8]) -> io::Result<()> {
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
}

impl Sink for Queue {
    fn wait_for_room(&self) {
        let mut state = self.0.lock();
        while state.queue.len() >= QUEUE_LIMIT && !state.released {
            state = self.0.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put(&self, byte: u8) {
        let mut state = self.0.lock();
        if state.error.is_some() {
            return;
        }
        state.queue.push(byte);
        // The first wakes the writer, and a piece is worth writing.
        if matches!(state.queue.len(), 1 | PIECE) {
            self.0.filled.notify_one();
        }
    }

    fn pause(&self) {
        let mut state = self.0.lock();
        if !state.queue.is_empty() && !mem::replace(&mut state.paused, true) {
            drop(state);
            self.0.filled.notify_one();
            // On a processor that the writer shares with the vCPU, the writer's turn.
            thread::yield_now();
        }
    }
}

/// An eventfd as what `poll` takes.
pub(super) fn borrow(event: &EventFd) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open as long as the eventfd that the result borrows.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

#[cfg(test)]
#[path = "output_test.rs"]
mod tests;
