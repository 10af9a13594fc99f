//! The host's monotonic clock, as other processes on the host read it.

use std::time::Duration;

/// The time of `CLOCK_MONOTONIC`. Unlike an `Instant` it can be compared with that of other processes, so a program that
/// starts Coracle can compute how long after the start a log line was written.
pub fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

/// The same clock as of the host's last timer tick, at most some milliseconds ago. Reading it costs next to nothing.
pub fn coarse() -> Duration {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime writes one timespec, to a variable that lives as long as the call. If it failed, which it does not
    // for these clocks, the variable would keep its zeroes.
    unsafe { libc::clock_gettime(clock, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
