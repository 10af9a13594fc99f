//! Points at which trials end the process, as a kill or a loss of power would.

/// Names a step that something else may never follow. In tests a process whose environment says so ends here at once.
#[cfg(not(test))]
pub(crate) fn reached(_point: &str) {}

#[cfg(test)]
pub(crate) use trial::reached;

#[cfg(test)]
pub(crate) mod trial {
    /// A point's name, and how often it is passed before.
    pub(crate) const VARIABLE: &str = "CORACLE_IMAGES_KILLED_AT";
    /// The file to which points are written that were reached.
    pub(crate) const LOG: &str = "CORACLE_IMAGES_POINTS";

    pub(crate) fn reached(point: &str) {
        use std::io::Write;
        if let Some(log) = std::env::var_os(LOG) {
            let mut log = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(log)
                .unwrap();
            writeln!(log, "{point}").unwrap();
        }
        if std::env::var(VARIABLE).is_ok_and(|killed| killed == point) {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    }
}
