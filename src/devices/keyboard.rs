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

    /// Ports 0x60 and 0x64, as offsets from the first.
    const DATA: u64 = 0;
    const COMMAND: u64 = 4;
    const PULSE_RESET_LINE: u8 = 0xfe;

    #[test]
    fn only_the_reset_command_at_the_command_port_resets() {
        let count = AtomicUsize::new(0);
        let controller = KeyboardController::new(|| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        for offset in 0..=u8::MAX.into() {
            for value in 0..=u8::MAX {
                let before = count.load(Ordering::Relaxed);
                controller.write(offset, &[value]);
                let resets = count.load(Ordering::Relaxed) - before;
                let expected = (offset, value) == (COMMAND, PULSE_RESET_LINE);
                assert_eq!(resets, usize::from(expected), "{value:#x} at offset {offset}");
            }
        }
    }

    #[test]
    fn only_the_first_byte_of_a_wide_write_is_a_command() {
        let count = AtomicUsize::new(0);
        let controller = KeyboardController::new(|| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        controller.write(COMMAND, &[]);
        controller.write(COMMAND, &[0, PULSE_RESET_LINE]);
        controller.write(DATA, &[PULSE_RESET_LINE; 8]);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn it_never_says_that_it_is_busy() {
        let controller = KeyboardController::new(|| ());
        let mut status = [0xff];
        controller.read(COMMAND, &mut status);
        assert_eq!(status, [0]);
    }
}
