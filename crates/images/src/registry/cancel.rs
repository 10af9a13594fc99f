//! Ends what takes long.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Ends all work of the clients that it was given to, from any thread and at once: also where a server is waited for.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_cancelled: bool,
    agents: Vec<ureq::Agent>,
}

impl Cancel {
    pub fn cancel(&self) {
        let agents = {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.is_cancelled = true;
            std::mem::take(&mut state.agents)
        };
        self.0.changed.notify_all();
        agents.into_iter().for_each(ureq::Agent::shutdown);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_cancelled
    }

    /// An error if it was cancelled.
    pub(super) fn check(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    /// Ends the agent's requests as well.
    pub(super) fn add(&self, agent: &ureq::Agent) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.agents.push(agent.clone());
        if state.is_cancelled {
            drop(state);
            self.cancel();
        }
    }

    /// Waits, but not after it was cancelled.
    pub(super) fn wait(&self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.is_cancelled {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Err(Error::Cancelled)
    }
}
