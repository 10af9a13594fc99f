//! What the vCPUs of a machine are ordered to do: run, pause, or stop. Any thread may give an order. Each vCPU looks at it
//! before every entry into the guest, and acknowledges a pause by standing still.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Outcome;
use super::kick::Kicks;

/// What the vCPUs are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    Run,
    Pause,
    /// For good: no other order follows.
    Stop,
}

/// What a vCPU may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Enter the guest.
    Enter,
    /// Enter the guest, which has missed some time.
    EnterAfterPause,
    /// Enter the guest no more.
    Stop,
}

/// Shared by the vCPUs, the devices, and whoever holds the machine.
pub struct Orders {
    /// The order, for vCPUs to look at without a lock. It changes only while `state` is locked.
    order: AtomicU8,
    state: Mutex<State>,
    /// A vCPU stands still, or the order has changed.
    changed: Condvar,
    ended: EventFd,
    /// The threads of the vCPUs, which an order brings out of the guest.
    pub vcpus: Kicks,
}

struct State {
    order: Order,
    /// Why the run ends, once it is to end.
    outcome: Option<Outcome>,
    /// How many vCPUs may be in the guest, or handle an exit.
    moving: usize,
}

impl Orders {
    /// The orders for this number of vCPUs: to run.
    pub fn new(cpus: usize) -> io::Result<Self> {
        Ok(Self {
            order: AtomicU8::new(Order::Run as u8),
            state: Mutex::new(State {
                order: Order::Run,
                outcome: None,
                moving: cpus,
            }),
            changed: Condvar::new(),
            ended: EventFd::new(EFD_NONBLOCK)?,
            vcpus: Kicks::default(),
        })
    }

    /// Stops all vCPUs with this outcome, unless they were stopped before. Does not wait for them.
    pub fn stop(&self, outcome: Outcome) {
        let mut state = self.lock();
        if state.order == Order::Stop {
            return;
        }
        state.outcome = Some(outcome);
        self.give(&mut state, Order::Stop);
        // This cannot fail: the counter is not full, since this is the only write to it.
        let _ = self.ended.write(1);
    }

    /// Stops all vCPUs for a while, and waits until each stands still. Returns whether they do: a run that ends does not
    /// pause any more. To be called by no vCPU.
    pub fn pause(&self) -> bool {
        let mut state = self.lock();
        if state.order == Order::Run {
            self.give(&mut state, Order::Pause);
        }
        let state = self
            .changed
            .wait_while(state, |state| state.order == Order::Pause && state.moving > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.order == Order::Pause
    }

    /// Ends a pause.
    pub fn resume(&self) {
        let mut state = self.lock();
        if state.order == Order::Pause {
            self.give(&mut state, Order::Run);
        }
    }

    fn give(&self, state: &mut State, order: Order) {
        state.order = order;
        // This comes before the kick, because a vCPU that the kick brings out of the guest looks at it before it goes back.
        self.order.store(order as u8, Ordering::SeqCst);
        if order != Order::Run {
            self.vcpus.kick_all();
        }
        self.changed.notify_all();
    }

    /// What the calling vCPU may do now. Blocks during a pause.
    pub fn next(&self) -> Next {
        if self.order.load(Ordering::SeqCst) == Order::Run as u8 {
            return Next::Enter;
        }
        let mut state = self.lock();
        if state.order == Order::Pause {
            state.moving -= 1;
            self.changed.notify_all();
            state = self
                .changed
                .wait_while(state, |state| state.order == Order::Pause)
                .unwrap_or_else(PoisonError::into_inner);
            state.moving += 1;
        }
        match state.order {
            Order::Stop => Next::Stop,
            Order::Run | Order::Pause => Next::EnterAfterPause,
        }
    }

    /// Becomes readable when the run is to end.
    pub fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// Waits until the run is to end, and takes the reason.
    pub fn wait_for_outcome(&self) -> Option<Outcome> {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| state.order != Order::Stop)
            .unwrap_or_else(PoisonError::into_inner);
        state.outcome.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "orders_test.rs"]
mod tests;
