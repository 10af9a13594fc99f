//! An interrupt line of the guest, in the form in which a device gets it.

use std::io;

/// An edge-triggered interrupt line.
pub struct Interrupt(Box<dyn Fn() -> io::Result<()> + Send + Sync>);

impl Interrupt {
    /// A line on which each call of `raise` is one edge. `raise` must work on any thread, and on several at once; it may block
    /// only while another thread raises the same line.
    pub fn new(raise: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Box::new(raise))
    }

    /// Raises one edge. Can be called on any thread. Blocks only while another thread raises the same line.
    pub fn raise(&self) -> io::Result<()> {
        (self.0)()
    }
}

impl vm_superio::Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.raise()
    }
}
