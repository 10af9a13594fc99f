//! The way of what is typed to the guest: any number of keyboards, and the serial port of the current boot.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::wait::{For, borrow};

use crate::devices::serial::SerialPort;

/// The port, and the keyboards that are attached.
#[derive(Default)]
pub struct Keyboards(Mutex<State>);

#[derive(Default)]
struct State {
    port: Option<Arc<SerialPort>>,
    /// What tells each keyboard that the guest takes input.
    attached: Vec<Arc<EventFd>>,
    /// Somebody typed while no port was connected.
    is_awaited: bool,
}

/// What takes what a person types, on its way to the guest.
pub trait Keys {
    /// Hands over what is typed, and returns how many bytes were taken.
    fn type_in(&self, bytes: &[u8]) -> usize;
    /// How many bytes would be taken now.
    fn room(&self) -> usize;
    /// What becomes ready when more is taken, if it is to be waited for.
    fn takes_more(&self) -> Option<For<'_>>;
    /// To be called when that was ready.
    fn note_that_it_takes_more(&self);
}

/// Types for the guest. Dropping it detaches it.
pub struct Keyboard {
    keyboards: Arc<Keyboards>,
    takes_input: Arc<EventFd>,
}

impl Keyboards {
    pub fn attach(self: &Arc<Self>, takes_input: Arc<EventFd>) -> Keyboard {
        self.lock().attached.push(takes_input.clone());
        Keyboard {
            keyboards: self.clone(),
            takes_input,
        }
    }

    /// What is typed goes to this port from now on.
    pub fn connect(&self, port: Arc<SerialPort>) {
        let mut state = self.lock();
        state.port = Some(port);
        if mem::take(&mut state.is_awaited) {
            state.tell();
        }
    }

    /// Nothing of what is typed is taken until the next port is connected.
    pub fn disconnect(&self) {
        self.lock().port = None;
    }

    /// Tells all keyboards that the guest takes input.
    pub fn tell(&self) {
        self.lock().tell();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&self) {
        for takes_input in &self.attached {
            // An eventfd's write fails only when it is readable already.
            let _ = takes_input.write(1);
        }
    }
}

impl Keyboard {
    /// Hands what is typed to the guest, and returns how many bytes it took. The event with which it was attached tells when to
    /// offer the rest; it may also tell so for another keyboard.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        self.port().map_or(0, |port| port.receive(bytes))
    }

    /// How many bytes the guest would take now. If none, the same event tells when that changes.
    pub fn room(&self) -> usize {
        self.port().map_or(0, |port| port.room_for_input())
    }

    /// The port. The lock is let go before the port is used, because the port takes its own lock and then tells the keyboards.
    fn port(&self) -> Option<Arc<SerialPort>> {
        let mut state = self.keyboards.lock();
        let port = state.port.clone();
        state.is_awaited |= port.is_none();
        port
    }
}

impl Keys for Keyboard {
    fn type_in(&self, bytes: &[u8]) -> usize {
        Self::type_in(self, bytes)
    }

    fn room(&self) -> usize {
        Self::room(self)
    }

    fn takes_more(&self) -> Option<For<'_>> {
        Some(For::Reading(borrow(&self.takes_input)))
    }

    fn note_that_it_takes_more(&self) {
        // The counter is not 0, because poll said so; reading resets it.
        let _ = self.takes_input.read();
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let mut state = self.keyboards.lock();
        state
            .attached
            .retain(|other| !Arc::ptr_eq(other, &self.takes_input));
    }
}
