//! Devices of a PC that Linux expects even in the smallest machine.

pub mod boot_clock;
pub mod keyboard;
pub mod power;
pub mod power_button;
pub mod serial;
pub mod sink;
