//! One guest interrupt line, as a device holds it.

use std::io;

/// An edge-triggered interrupt line.
pub struct Interrupt(Box<dyn Fn() -> io::Result<()> + Send + Sync>);

impl Interrupt {
    /// A line whose edges are calls of `raise`: on any thread, and of several at once. It waits for nobody but them.
    pub fn new(raise: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Box::new(raise))
    }

    /// Raises one edge. Callable from any thread; waits for none but those that raise it too.
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
