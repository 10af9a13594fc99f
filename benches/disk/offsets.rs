//! Places on a disk in an order without a pattern, the same each time.

use super::driver::BLOCK;

pub struct Offsets {
    state: u64,
    blocks: u64,
}

impl Offsets {
    /// Of a disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self {
            state: 1,
            blocks: size / BLOCK as u64,
        }
    }

    /// The next one: the high bits of a linear congruence modulo 2^64.
    pub fn next(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % self.blocks * BLOCK as u64
    }
}
