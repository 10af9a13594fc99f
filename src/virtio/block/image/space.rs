//! Limits how much of the host's space a file takes up that grows with what a guest writes.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A limit in bytes, and how much of it is left.
///
/// Only the host knows how much a file takes up, since the guest makes holes in it, too. Asking before each write would
/// be slow. So each write takes the most that it can add from what was left when the host was asked last, and the host
/// is asked again when that is not enough.
pub struct Space {
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    left: u64,
    /// The most that the writes that have not ended yet can add.
    under_way: u64,
}

/// The space of one write. It is dropped when the write has ended.
pub struct Claim<'a> {
    space: &'a Space,
    length: u64,
}

impl Space {
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Claims space for a write of `length` bytes, if so much is left. `used` asks the host how much the file takes up.
    pub fn claim(
        &self,
        length: u64,
        used: impl FnOnce() -> io::Result<u64>,
    ) -> io::Result<Option<Claim<'_>>> {
        let mut state = self.state();
        if state.left < length {
            // A write that ends just now may be counted twice, which is safe: too little is left then, and not too
            // much.
            let taken = used()?.saturating_add(state.under_way);
            state.left = self.limit.saturating_sub(taken);
        }
        let Some(left) = state.left.checked_sub(length) else {
            return Ok(None);
        };
        state.left = left;
        state.under_way += length;
        Ok(Some(Claim { space: self, length }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.space.state().under_way -= self.length;
    }
}

#[cfg(test)]
#[path = "space_test.rs"]
mod tests;
