//! The sleep registers of a hardware-reduced ACPI machine (ACPI 6.4 section 4.8.3.7), for power-off.

use crate::bus::BusDevice;

/// Offset of the sleep control register: bits 4:2 SLP_TYPx, bit 5 SLP_EN. The status register follows it.
const SLEEP_CONTROL: u64 = 0;
const SLP_EN: u8 = 1 << 5;
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 0x7;

/// Calls `power_off` when the guest enters S5, soft off.
pub struct SleepRegisters<F> {
    /// The SLP_TYPx value of S5. The guest reads it from the machine's `_S5` object.
    soft_off: u8,
    power_off: F,
}

impl<F: Fn() + Send + Sync> SleepRegisters<F> {
    pub fn new(soft_off: u8, power_off: F) -> Self {
        Self { soft_off, power_off }
    }
}

impl<F: Fn() + Send + Sync> BusDevice for SleepRegisters<F> {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let value = data.first().copied().unwrap_or(0);
        let sleep_type = value >> SLP_TYP_SHIFT & SLP_TYP_MASK;
        if offset == SLEEP_CONTROL && value & SLP_EN != 0 && sleep_type == self.soft_off {
            (self.power_off)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn only_a_written_s5_with_the_enable_bit_powers_off() {
        let count = AtomicUsize::new(0);
        let registers = SleepRegisters::new(5, || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let expected = Cell::new(0);
        for value in 0..=u8::MAX {
            registers.write(0, &[value]);
            if value & 0x3c == 0x34 {
                expected.set(expected.get() + 1);
            }
        }
        registers.write(1, &[0x34]);
        registers.write(0, &[]);
        assert_eq!(count.load(Ordering::Relaxed), expected.get());
    }
}
