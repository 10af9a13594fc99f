//! A bound on the log lines that one device can cause. `logging.rs` has the bound for the process.

use std::sync::atomic::{AtomicU32, Ordering};

use log::Level;

/// Lines that one device may write.
const LINES: u32 = 16;

/// Counts the log lines of a device and its transport, of which a guest can cause as many as it likes. So a device that
/// goes wrong leaves lines to the others. The count lasts as long as the process: it does not begin anew when a guest boots
/// again.
#[derive(Debug, Default)]
pub struct LogLimit(AtomicU32);

impl LogLimit {
    /// Logs at `level` as long as the device has lines left, and at [`Level::Debug`] from then on.
    pub fn log(&self, level: Level, line: std::fmt::Arguments) {
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(1));
        match before {
            Ok(count) if count < LINES => log::log!(level, "{line}"),
            _ => log::debug!("{line}"),
        }
        if before == Ok(LINES - 1) {
            log::log!(level, "this device logs further messages at level debug");
        }
    }
}
