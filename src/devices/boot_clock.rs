//! The boot clock: an I/O port to which a guest writes a byte for each point of its boot that it has reached.
//! docs/timings.md describes it for guests.

use crate::bus::BusDevice;

/// Calls `mark` with every byte that the guest writes. A read leaves the bytes of a port without a device.
pub struct BootClock<F> {
    mark: F,
}

impl<F: Fn(u8) + Send + Sync> BootClock<F> {
    pub fn new(mark: F) -> Self {
        Self { mark }
    }
}

impl<F: Fn(u8) + Send + Sync> BusDevice for BootClock<F> {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, _offset: u64, data: &[u8]) {
        data.iter().for_each(|&value| (self.mark)(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_byte_is_a_mark_and_reading_is_none() {
        let marks = Mutex::new(Vec::new());
        let clock = BootClock::new(|value| marks.lock().unwrap().push(value));
        clock.write(0, &[3]);
        clock.write(0, &[]);
        clock.write(0, &[0, 255]);
        let mut data = [0xff];
        clock.read(0, &mut data);
        assert_eq!(data, [0xff]);
        assert_eq!(*marks.lock().unwrap(), [3, 0, 255]);
    }
}
