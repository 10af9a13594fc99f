//! The i8042 keyboard controller, with only those of its functions that a reset of the machine needs.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;

/// Calls a function when triggered.
struct Call<F>(F);

impl<F: Fn()> Trigger for Call<F> {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        (self.0)();
        Ok(())
    }
}

/// Calls `reset` when the guest pulses the reset line.
pub struct KeyboardController<F: Fn()> {
    controller: Mutex<I8042Device<Call<F>>>,
}

impl<F: Fn() + Send> KeyboardController<F> {
    pub fn new(reset: F) -> Self {
        Self {
            controller: Mutex::new(I8042Device::new(Call(reset))),
        }
    }
}

impl<F: Fn() + Send> BusDevice for KeyboardController<F> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut controller = self.controller.lock().unwrap_or_else(PoisonError::into_inner);
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = controller.read(offset as u8);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut controller = self.controller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = data.first() {
            let Ok(()) = controller.write(offset as u8, *first);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let count = AtomicUsize::new(0);
        let controller = KeyboardController::new(|| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        for value in 0..=u8::MAX {
            controller.write(0, &[value]);
            controller.write(4, &[value]);
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn it_never_says_that_it_is_busy() {
        let controller = KeyboardController::new(|| ());
        let mut status = [0xff];
        controller.read(4, &mut status);
        assert_eq!(status, [0]);
    }
}
