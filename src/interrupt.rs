//! One guest interrupt line, as a device holds it.

use std::io;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// An edge-triggered interrupt line. Whoever routes interrupts (KVM, by irqfd) listens at [`Interrupt::fd`].
#[derive(Debug)]
pub struct Interrupt(EventFd);

impl Interrupt {
    pub fn new() -> io::Result<Self> {
        EventFd::new(EFD_NONBLOCK).map(Self)
    }

    /// The eventfd whose writes are edges of this line.
    pub fn fd(&self) -> &EventFd {
        &self.0
    }

    /// A second handle of the same line.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Raises one edge. Callable from any thread; never blocks.
    pub fn raise(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl vm_superio::Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.raise()
    }
}
