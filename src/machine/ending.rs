//! The end of a run: anybody may ask for it, the first one wins.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Outcome;

/// Shared by vCPUs, devices and whoever waits for the end.
pub struct Ending {
    requested: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    event: EventFd,
}

impl Ending {
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self {
            requested: AtomicBool::new(false),
            outcome: Mutex::new(None),
            event,
        })
    }

    /// Ends the run with this outcome, unless it ended before.
    pub fn end(&self, outcome: Outcome) {
        let mut first = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_some() {
            return;
        }
        *first = Some(outcome);
        self.requested.store(true, Ordering::Release);
        // The counter cannot be full: this is its only write.
        let _ = self.event.write(1);
    }

    /// Whether vCPUs are to stop.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Readable from the end on.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    pub fn take_outcome(&self) -> Option<Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
