//! The way of what is typed to the guest: any number of keyboards, and the serial port of the current boot.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

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

/// Types for the guest. Dropping it detaches it.
pub struct Keyboard {
    keyboards: Arc<Keyboards>,
    takes_input: Arc<EventFd>,
}

impl Keyboards {
    pub fn attach(self: &Arc<Self>) -> io::Result<Keyboard> {
        let takes_input = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        self.lock().attached.push(takes_input.clone());
        Ok(Keyboard {
            keyboards: self.clone(),
            takes_input,
        })
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
    /// Hands what is typed to the guest, and returns how many bytes it took; [`Keyboard::takes_input`] tells when to offer the
    /// rest.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        self.port().map_or(0, |port| port.receive(bytes))
    }

    /// How many bytes the guest would take now. If none, [`Keyboard::takes_input`] tells when that changes.
    pub fn room(&self) -> usize {
        self.port().map_or(0, |port| port.room_for_input())
    }

    /// Becomes readable when the guest takes input that it refused. It may also become so for another keyboard.
    pub fn takes_input(&self) -> &EventFd {
        &self.takes_input
    }

    /// The port. The lock is let go before the port is used, because the port takes its own lock and then tells the keyboards.
    fn port(&self) -> Option<Arc<SerialPort>> {
        let mut state = self.keyboards.lock();
        let port = state.port.clone();
        state.is_awaited |= port.is_none();
        port
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
