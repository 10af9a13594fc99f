//! The request to stop a machine. Any thread may make it; the run has the outcome of the first request.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Outcome;
use super::kick::Kicks;

/// Shared by the vCPUs, the devices, and the thread that waits for the end of the run.
pub struct StopRequest {
    is_made: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    event: EventFd,
    /// The threads of the vCPUs, which a request brings out of the guest.
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

    /// Stops all vCPUs with this outcome, unless a stop was requested before. Does not wait for them.
    pub fn make(&self, outcome: Outcome) {
        let mut first = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_some() {
            return;
        }
        *first = Some(outcome);
        // This comes before the kick, because a vCPU that the kick brings out of the guest checks it before it goes back.
        self.is_made.store(true, Ordering::SeqCst);
        self.vcpus.kick_all();
        // This cannot fail: the counter is not full, since this is the only write to it.
        let _ = self.event.write(1);
    }

    /// Whether vCPUs are to stop.
    pub fn is_made(&self) -> bool {
        self.is_made.load(Ordering::SeqCst)
    }

    /// Becomes readable when the request is made.
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
