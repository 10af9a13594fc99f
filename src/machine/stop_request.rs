//! The request to stop a machine: anybody may make it, and the first one's outcome is that of the run.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Outcome;
use super::kick::Kicks;

/// Shared by vCPUs, devices and whoever waits for the end of the run.
pub struct StopRequest {
    is_made: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    event: EventFd,
    /// The threads that this brings out of the guest.
    pub vcpus: Kicks,
}

impl StopRequest {
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self {
            is_made: AtomicBool::new(false),
            outcome: Mutex::new(None),
            event,
            vcpus: Kicks::default(),
        })
    }

    /// Stops all vCPUs with this outcome, unless somebody did before. Does not wait for them.
    pub fn make(&self, outcome: Outcome) {
        let mut first = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_some() {
            return;
        }
        *first = Some(outcome);
        // Before the kick: a vCPU that it brings out of the guest looks here before it goes back.
        self.is_made.store(true, Ordering::SeqCst);
        self.vcpus.kick_all();
        // The counter cannot be full: this is its only write.
        let _ = self.event.write(1);
    }

    /// Whether vCPUs are to stop.
    pub fn is_made(&self) -> bool {
        self.is_made.load(Ordering::SeqCst)
    }

    /// Readable once the request is made.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    pub fn take_outcome(&self) -> Option<Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
#[path = "stop_request_test.rs"]
mod tests;
