//! The guest's console: a stream of what the guest printed, which has a past, and a keyboard.
//!
//! Whoever attaches a [`Reader`] gets the past, as far as it is kept, and then what the guest prints. Dropping the reader
//! detaches it, and the guest goes on. Any number of readers and keyboards can be attached at the same time, from any thread,
//! with or without a terminal. One console serves all boots of a run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, mem, thread};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::keyboard::{Keyboard, Keyboards};
use crate::devices::serial::SerialPort;
use crate::devices::sink::Sink;

/// Bytes of the past that are kept. More than [`BEHIND`] and what all vCPUs print in one exit each, a page at most.
const PAST: usize = 256 << 10;
/// How many bytes a reader for whom the guest waits may be behind the guest.
const BEHIND: u64 = 64 << 10;
/// A reader that waits for more is woken by this many bytes.
pub const PIECE: usize = 4096;
/// How long bytes may wait for those that follow.
const MOMENT: Duration = Duration::from_millis(1);
/// Bytes at the end of the output that [`crate::diagnosis`] gets.
const TAIL: usize = 8 << 10;

/// What happens to a reader that is slower than the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The guest waits for it, so it gets every byte, and it can stop the guest. This is for the one whose output the guest's
    /// is, as that of any program: the terminal or pipe of the run.
    GuestWaits,
    /// It misses what is no longer kept when it comes to read it, and is told how much that was. So somebody who only looks at
    /// the console can slow neither the guest nor another reader.
    Misses,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes that the guest printed. Before them, this many are missing.
    Bytes { missed: u64 },
    /// [`Waker::wake`] was called.
    Woken,
    /// The run is over, and all bytes were read.
    Ended,
}

/// The console. A clone is the same console.
#[derive(Clone, Default)]
pub struct Console(Arc<Stream>);

/// Reads what the guest printed. Dropping it detaches it.
pub struct Reader {
    stream: Arc<Stream>,
    number: u64,
}

/// Makes the reader's read that waits, or its next one, return at once. It does nothing once the reader is detached.
#[derive(Clone)]
pub struct Waker {
    stream: Arc<Stream>,
    number: u64,
}

#[derive(Default)]
struct Stream {
    state: Mutex<State>,
    /// Bytes have come for which a reader waits.
    filled: Condvar,
    /// There is room again.
    drained: Condvar,
    /// Whether vCPUs have to wait. It changes only while `state` is locked, and is looked at before that.
    is_full: AtomicBool,
    keyboards: Arc<Keyboards>,
}

#[derive(Default)]
struct State {
    /// The last bytes that the guest printed.
    past: VecDeque<u8>,
    /// How many bytes the guest has printed. Other positions are counts of this kind, too.
    end: u64,
    /// Where the current boot began.
    boot: u64,
    /// Where the guest paused last: what is before that is not about to be continued.
    paused: u64,
    /// Readers, by their numbers.
    readers: BTreeMap<u64, Place>,
    /// How many readers were ever attached.
    attached: u64,
    /// How many readers wait now.
    waiting: usize,
    /// Where the first of them wants to be woken.
    wake_at: Option<u64>,
    /// What is written to then, for readers that do not wait here.
    bell: Option<Arc<EventFd>>,
    /// Where the guest has to wait.
    limit: Option<u64>,
    /// Whether vCPUs go on without waiting for room.
    is_released: bool,
    is_over: bool,
}

/// How far a reader has read.
struct Place {
    at: u64,
    pace: Pace,
    is_woken: bool,
}

impl Console {
    /// Where the guest's serial port puts its bytes.
    pub fn sink(&self) -> Arc<dyn Sink> {
        self.0.clone()
    }

    /// Attaches a reader that gets the past first.
    pub fn attach(&self, pace: Pace) -> Reader {
        self.attach_at(pace, |state| state.end - state.past.len() as u64)
    }

    /// Attaches a reader that gets what is printed from now on.
    pub fn attach_to_what_comes(&self, pace: Pace) -> Reader {
        self.attach_at(pace, |state| state.end)
    }

    fn attach_at(&self, pace: Pace, position: impl FnOnce(&State) -> u64) -> Reader {
        let mut state = self.0.lock();
        let number = state.attached;
        let at = position(&state);
        state.attached += 1;
        let place = Place {
            at,
            pace,
            is_woken: false,
        };
        state.readers.insert(number, place);
        self.0.settle(&mut state);
        Reader {
            stream: self.0.clone(),
            number,
        }
    }

    /// Attaches a keyboard.
    pub fn keyboard(&self) -> io::Result<Keyboard> {
        let takes_input = EventFd::new(EFD_NONBLOCK)?;
        Ok(self.keyboard_telling(Arc::new(takes_input)))
    }

    /// Attaches a keyboard. `takes_input` becomes readable when the guest takes input that it refused.
    pub fn keyboard_telling(&self, takes_input: Arc<EventFd>) -> Keyboard {
        self.0.keyboards.attach(takes_input)
    }

    /// What is typed goes to this port from now on.
    pub fn connect(&self, port: Arc<SerialPort>) {
        self.0.keyboards.connect(port);
    }

    /// The guest has ended: nothing of what is typed is taken until the next port is connected.
    pub fn disconnect(&self) {
        self.0.keyboards.disconnect();
    }

    /// The next boot begins. The vCPUs of the boot before have been released and have stopped.
    pub fn begin_boot(&self) {
        let mut state = self.0.lock();
        state.boot = state.end;
        state.is_released = false;
        self.0.settle(&mut state);
    }

    /// The run is over: later bytes are ignored, and readers get the end after what is there.
    pub fn end(&self) {
        let mut state = self.0.lock();
        state.is_over = true;
        self.0.wake(state);
    }

    /// The last bytes that this boot has printed.
    pub fn tail_of_boot(&self) -> Vec<u8> {
        let state = self.0.lock();
        state.last_bytes(state.end - state.boot)
    }

    /// All that is kept of what was printed.
    pub fn past(&self) -> Vec<u8> {
        let mut state = self.0.lock();
        state.past.make_contiguous().to_vec()
    }

    /// The last bytes that any boot has printed.
    pub fn tail_of_run(&self) -> Vec<u8> {
        let state = self.0.lock();
        state.last_bytes(state.end)
    }
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all readers.
    fn wake(&self, mut state: MutexGuard<State>) {
        let bell = state.bell.take();
        drop(state);
        self.filled.notify_all();
        if let Some(bell) = bell {
            // An eventfd's write fails only when it is readable already.
            let _ = bell.write(1);
        }
    }

    /// To be called when a reader has moved, come or gone, or the waits for room were ended or allowed.
    fn settle(&self, state: &mut State) {
        let waited_for = state
            .readers
            .values()
            .filter(|place| place.pace == Pace::GuestWaits);
        state.limit = waited_for.map(|place| place.at + BEHIND).min();
        let is_full = state.is_full();
        if self.is_full.swap(is_full, Ordering::Relaxed) && !is_full {
            self.drained.notify_all();
        }
    }
}

impl State {
    /// Whether vCPUs have to wait.
    fn is_full(&self) -> bool {
        !self.is_released && self.limit.is_some_and(|limit| self.end >= limit)
    }

    /// At most `count` bytes, and [`TAIL`].
    fn last_bytes(&self, count: u64) -> Vec<u8> {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(TAIL);
        let skipped = self.past.len().saturating_sub(count);
        self.past.range(skipped..).copied().collect()
    }

    /// Remembers that a reader wants to be woken when the guest has printed this many bytes.
    fn wake_at(&mut self, end: u64) {
        self.wake_at = Some(self.wake_at.map_or(end, |other| other.min(end)));
    }
}

impl Reader {
    /// Waits for bytes, and replaces those in `bytes` by them. A guest prints byte by byte, so this waits a moment for more
    /// unless the guest has paused.
    pub fn read(&mut self, bytes: &mut Vec<u8>) -> Read {
        bytes.clear();
        let stream = &*self.stream;
        let mut state = stream.lock();
        let Some(place) = state.readers.get(&self.number) else {
            return Read::Ended;
        };
        let at = place.at;
        state.waiting += 1;
        let is_woken = |state: &State| {
            state
                .readers
                .get(&self.number)
                .is_some_and(|place| place.is_woken)
        };
        let has_nothing = |state: &mut State| {
            let waits = state.end == at && !state.is_over && !is_woken(state);
            if waits {
                state.wake_at(at + 1);
            }
            waits
        };
        state = stream
            .filled
            .wait_while(state, has_nothing)
            .unwrap_or_else(PoisonError::into_inner);
        let gathers = |state: &mut State| {
            let is_short = state.end < at + PIECE as u64 && state.paused <= at;
            let waits = is_short && !state.is_over && !is_woken(state);
            if waits {
                state.wake_at(at + PIECE as u64);
            }
            waits
        };
        (state, _) = stream
            .filled
            .wait_timeout_while(state, MOMENT, gathers)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        self.take(&mut state, bytes, PAST)
    }

    /// Replaces those in `bytes` by the next bytes, `most` at most, without waiting. If there are none yet, this gives nothing, and
    /// `bell`, which is the same one for all readers of a console, becomes readable when there are some.
    pub fn read_at_once(&mut self, bytes: &mut Vec<u8>, most: usize, bell: &Arc<EventFd>) -> Option<Read> {
        bytes.clear();
        let mut state = self.stream.lock();
        let at = state.readers.get(&self.number)?.at;
        if at == state.end && !state.is_over {
            state.bell = Some(bell.clone());
            state.wake_at(at + 1);
            return None;
        }
        Some(self.take(&mut state, bytes, most))
    }

    /// How many bytes there are to read.
    pub fn unread(&self) -> u64 {
        let state = self.stream.lock();
        let place = state.readers.get(&self.number);
        place.map_or(0, |place| (state.end - place.at).min(state.past.len() as u64))
    }

    /// Takes what there is, `most` bytes at most.
    fn take(&self, state: &mut State, bytes: &mut Vec<u8>, most: usize) -> Read {
        let State {
            readers, past, end, ..
        } = state;
        let Some(place) = readers.get_mut(&self.number) else {
            return Read::Ended;
        };
        if mem::take(&mut place.is_woken) {
            return Read::Woken;
        }
        let start = *end - past.len() as u64;
        let from = place.at.max(start);
        let missed = from - place.at;
        let kept = past.range((from - start) as usize..);
        bytes.extend(kept.take(most));
        place.at = from + bytes.len() as u64;
        self.stream.settle(state);
        match bytes.is_empty() {
            true => Read::Ended,
            false => Read::Bytes { missed },
        }
    }

    pub fn waker(&self) -> Waker {
        Waker {
            stream: self.stream.clone(),
            number: self.number,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.stream.lock();
        state.readers.remove(&self.number);
        self.stream.settle(&mut state);
    }
}

impl Waker {
    pub fn wake(&self) {
        let mut state = self.stream.lock();
        if let Some(place) = state.readers.get_mut(&self.number) {
            place.is_woken = true;
            self.stream.filled.notify_all();
        }
    }
}

impl Sink for Stream {
    fn wait_for_room(&self) {
        if !self.is_full.load(Ordering::Relaxed) {
            return;
        }
        let state = self.lock();
        // An error of the wait is that another thread panicked.
        drop(self.drained.wait_while(state, |state| state.is_full()));
    }

    fn release(&self) {
        let mut state = self.lock();
        state.is_released = true;
        self.settle(&mut state);
    }

    fn hold(&self) {
        let mut state = self.lock();
        state.is_released = false;
        self.settle(&mut state);
    }

    fn put(&self, byte: u8) {
        let mut state = self.lock();
        if state.is_over {
            return;
        }
        if state.past.len() == PAST {
            state.past.pop_front();
        }
        state.past.push_back(byte);
        state.end += 1;
        if state.is_full() {
            self.is_full.store(true, Ordering::Relaxed);
        }
        if state.wake_at.is_some_and(|wake_at| state.end >= wake_at) {
            state.wake_at = None;
            self.wake(state);
        }
    }

    fn pause(&self) {
        let mut state = self.lock();
        let end = state.end;
        let has_news = mem::replace(&mut state.paused, end) != end;
        if has_news && state.waiting > 0 {
            drop(state);
            self.filled.notify_all();
            // Lets a reader run at once if it shares a processor with this vCPU.
            thread::yield_now();
        }
    }

    fn takes_input(&self) {
        self.keyboards.tell();
    }
}

#[cfg(test)]
#[path = "stream_test.rs"]
mod tests;
