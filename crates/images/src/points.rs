//! Points at which trials kill the process.

/// A step is done after which a killed process leaves something else behind than before it.
#[cfg(not(test))]
pub(crate) fn reached(_point: &str) {}

#[cfg(test)]
pub(crate) use trial::reached;

#[cfg(test)]
pub(crate) mod trial {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// How many points the process passes before it is killed at one.
    pub(crate) const KILLED_AFTER: &str = "CORACLE_IMAGES_KILLED_AFTER";
    /// A file to which each point's name is added.
    pub(crate) const LOG: &str = "CORACLE_IMAGES_POINTS";

    static PASSED: AtomicUsize = AtomicUsize::new(0);

    pub(crate) fn reached(point: &str) {
        use std::io::Write;
        if let Some(log) = std::env::var_os(LOG) {
            let log = std::fs::OpenOptions::new().append(true).create(true).open(log);
            writeln!(log.unwrap(), "{point}").unwrap();
        }
        if let Ok(after) = std::env::var(KILLED_AFTER)
            && PASSED.fetch_add(1, Ordering::Relaxed) == after.parse::<usize>().unwrap()
        {
            use rustix::process::{Signal, getpid, kill_process};
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    }
}

#[cfg(test)]
#[path = "points_test.rs"]
mod tests;
