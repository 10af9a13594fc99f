//! The guest's console output on its way to stdout: a reader of the console, and the thread that it reads on. The thread
//! writes large pieces. It also undoes what the guest did to a terminal, when the terminal is somebody else's for a while or
//! for good.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::guest_modes::GuestModes;
use super::keeper;
use super::signals::with_all_blocked;
use super::stream::{Read, Reader, Waker};
use super::wait::{For, borrow, wait};
use crate::confine::filter;
use crate::threads;

/// Bytes that a pipe takes whole, and without blocking, once it is ready for writing: `PIPE_BUF`.
const PIECE: usize = 4096;

/// What becomes of unwritten bytes when the run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// All are written, however long the reader takes.
    All,
    /// Those are written that the reader takes at once.
    AtOnce,
}

#[derive(Default)]
struct State {
    closed: bool,
    error: Option<io::Error>,
    asked: Option<Asked>,
    /// The writer waits, and with it all that is unwritten.
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

/// What the writer does next.
enum Task {
    Write,
    Undo,
    Redo,
}

/// The writer's thread, as its owner sees it.
pub struct GuestOutput {
    writer: Arc<Writer>,
    /// Makes the writer look at its orders.
    waker: Waker,
}

struct Writer {
    state: Mutex<State>,
    /// The writer's orders have changed, or what the guest did to the terminal is undone.
    changed: Condvar,
    /// Readable once the writer has ended.
    finished: EventFd,
    /// Written to make the writer give up on a reader that does not read.
    hurry: EventFd,
}

impl GuestOutput {
    /// Starts the thread that writes to `stdout` what `reader` reads.
    pub fn start(reader: Reader, stdout: OwnedFd) -> io::Result<Self> {
        let writer = Arc::new(Writer {
            state: Mutex::default(),
            changed: Condvar::new(),
            finished: EventFd::new(EFD_NONBLOCK)?,
            hurry: EventFd::new(EFD_NONBLOCK)?,
        });
        let waker = reader.waker();
        let write = {
            let writer = writer.clone();
            move || {
                filter::narrow(filter::Kind::Console);
                writer.write_all(reader, File::from(stdout));
            }
        };
        with_all_blocked(|| thread::Builder::new().name("console".into()).spawn(write))
            .map_err(threads::not_started)?;
        Ok(Self { writer, waker })
    }

    /// Becomes readable when everything is written after [`GuestOutput::close`], or when writing failed.
    pub fn finished(&self) -> &EventFd {
        &self.writer.finished
    }

    /// Why writing failed, if it did.
    pub fn take_error(&self) -> Option<io::Error> {
        self.writer.lock().error.take()
    }

    /// What of the written output a terminal may answer. Complete once the writer has [finished](Self::finished).
    pub fn asked(&self) -> Option<Asked> {
        self.writer.lock().asked
    }

    /// Undoes what the guest did to a terminal, and holds the output back until [`GuestOutput::go_on`]. Waits for that for
    /// `patience` at most, since the terminal may be stalled.
    pub fn undo_for_now(&self, patience: Duration) {
        self.order(|state| (state.held, state.wants_undone) = (true, true));
        // An error of the wait is that another thread panicked.
        let _ = self
            .writer
            .changed
            .wait_timeout_while(self.writer.lock(), patience, |state| !state.is_undone);
    }

    /// Lets the output go on. With `redo`, what was undone is done again before.
    pub fn go_on(&self, redo: bool) {
        self.order(|state| {
            state.held = false;
            state.wants_undone &= !redo;
        });
    }

    /// To be called when the console has ended: says what becomes of its bytes that are not written.
    pub fn close(&self, drain: Drain) {
        if drain == Drain::AtOnce {
            // An eventfd's write fails only when it is readable already.
            let _ = self.writer.hurry.write(1);
        }
        // The end of the console wakes a writer that reads.
        self.writer.lock().closed = true;
        self.writer.changed.notify_all();
    }

    fn order(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.writer.lock());
        self.writer.changed.notify_all();
        self.waker.wake();
    }
}

impl Writer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what `reader` reads to `stdout`, until the console has ended or writing fails. Afterwards undoes what the guest
    /// did to a terminal.
    fn write_all(&self, mut reader: Reader, mut stdout: File) {
        let mut bytes = Vec::new();
        let mut modes = GuestModes::default();
        // Whether the terminal is as the person had it: all is undone, and nothing was written since.
        let mut is_the_persons = false;
        loop {
            match self.next_task() {
                Task::Write => {
                    match reader.read(&mut bytes) {
                        Read::Bytes { .. } => is_the_persons = false,
                        Read::Woken => continue,
                        Read::Ended => break,
                    }
                    if let Err(error) = self.write(&mut stdout, &bytes, &mut modes) {
                        self.lock().error = Some(error);
                        break;
                    }
                }
                Task::Undo => {
                    self.change_terminal(&modes.undo(), &mut stdout);
                    is_the_persons = true;
                    self.lock().is_undone = true;
                    self.changed.notify_all();
                }
                Task::Redo => {
                    self.change_terminal(&modes.redo(), &mut stdout);
                    is_the_persons = false;
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
        // The guest does not wait any more.
        drop(reader);
        // The shell's screen may be there, where undoing once more would move the cursor.
        if !is_the_persons {
            self.change_terminal(&modes.undo(), &mut stdout);
        }
        let _ = self.finished.write(1);
    }

    /// What to do next. Waits while the output is held back.
    fn next_task(&self) -> Task {
        let mut state = self.lock();
        while !state.closed {
            match (state.wants_undone, state.is_undone) {
                (true, false) => return Task::Undo,
                (false, true) => return Task::Redo,
                _ if !state.held => break,
                _ => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        Task::Write
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
            let piece = &bytes[..bytes.len().min(PIECE)];
            // Until it is written, either may be needed.
            keeper::keep(|| modes.undo_with(piece));
            match stdout.write(piece) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    modes.watch(&bytes[..count]);
                    keeper::keep(|| modes.undo());
                    bytes = &bytes[count..];
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                // Whoever closes stdout wants a guest, and not its console.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Ok(()),
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

#[cfg(test)]
#[path = "output_test.rs"]
mod tests;
