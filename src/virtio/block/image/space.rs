//! How much of the host's space a file may take up that a guest makes larger.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What may be taken up, in bytes, and what is.
///
/// The host is asked how much the file takes up, since holes come and go; but not before each write: what a write may add
/// at most is taken from what was left when the host was asked last.
pub struct Space {
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    left: u64,
    /// What writes that have not ended may add.
    under_way: u64,
}

/// Space for one write, until it has ended.
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

    /// Space for a write of `length` bytes, if there is so much. `used` asks the host how much is taken up.
    pub fn claim(
        &self,
        length: u64,
        used: impl FnOnce() -> io::Result<u64>,
    ) -> io::Result<Option<Claim<'_>>> {
        let mut state = self.state();
        if state.left < length {
            // A write that ends meanwhile is counted twice, which is once too often and not once too few.
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
