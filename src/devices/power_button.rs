//! The power button of an ACPI machine (ACPI 6.4 section 4.8.2.2.1): a person, or a program on the host, asks the guest to power
//! itself off. The button has no registers. That it was pressed is all there is to tell, and an edge of its interrupt tells that:
//! the tables connect the interrupt with the button by a Generic Event Device (section 5.6.9).

use std::io;

use crate::interrupt::Interrupt;

/// What somebody presses. Whether the guest heeds it is the guest's affair.
pub struct PowerButton(Interrupt);

impl PowerButton {
    pub fn new(interrupt: Interrupt) -> Self {
        Self(interrupt)
    }

    pub fn press(&self) -> io::Result<()> {
        self.0.raise()
    }
}
