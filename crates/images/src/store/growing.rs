//! A blob's file that one thread reads while another one still adds to it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The file is the buffer between the two threads: however far the reader is behind, it takes no memory.
#[derive(Clone)]
pub(super) struct Growing(Arc<Inner>);

struct Inner {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that are there.
    length: u64,
    is_whole: bool,
    /// The writer adds no more, or the reader takes no more.
    is_given_up: bool,
}

impl Growing {
    pub(super) fn new(file: File) -> Self {
        Self(Arc::new(Inner {
            file,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// So many bytes are in the file now.
    pub(super) fn grow_to(&self, length: u64) {
        self.change(|state| state.length = length);
    }

    /// The file's end is the end of the data.
    pub(super) fn complete(&self) {
        self.change(|state| state.is_whole = true);
    }

    pub(super) fn give_up(&self) {
        self.change(|state| state.is_given_up = true);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.state().is_given_up
    }

    /// Reads the file from its begin, and waits for what is not there yet.
    pub(super) fn reader(&self) -> impl Read + Send + 'static {
        Reader {
            growing: self.clone(),
            position: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, how: impl FnOnce(&mut State)) {
        how(&mut self.state());
        self.0.changed.notify_all();
    }
}

struct Reader {
    growing: Growing,
    position: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let inner = &self.growing.0;
        let state = self.growing.state();
        let must_wait =
            |state: &mut State| state.length <= self.position && !state.is_whole && !state.is_given_up;
        let waited = inner.changed.wait_while(state, must_wait);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_given_up {
            return Err(io::Error::other("no more of the blob comes"));
        }
        let there = match state.is_whole {
            true => u64::MAX,
            false => state.length - self.position,
        };
        drop(state);
        let most = buffer.len().min(there.try_into().unwrap_or(usize::MAX));
        let count = inner.file.read_at(&mut buffer[..most], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
#[path = "growing_test.rs"]
mod tests;
