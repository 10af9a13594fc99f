//! The host's monotonic clock, as other processes on the host read it.

use std::time::Duration;

/// `CLOCK_MONOTONIC`. Unlike an `Instant` it can be compared across processes, so that whoever starts Coracle can
/// tell how long after the start a log line was written.
pub fn monotonic() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime writes one timespec. It cannot fail for this clock, and then leaves zeroes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
