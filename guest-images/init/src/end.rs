//! How the guest ends.

use std::io;
use std::process::ExitCode;

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::tcdrain;
use nix::unistd::getpid;

use crate::mounts;
use crate::supervise::{End, Supervisor};

/// Whether this is PID 1. Run by hand on a host, init must mount, kill and power off nothing.
pub fn is_first_process() -> bool {
    getpid().as_raw() == 1
}

/// Ends every process, unmounts the disks and ends the guest. Returns only when the kernel refuses that, as in a container.
pub fn end(end: End, supervisor: &Supervisor) -> ExitCode {
    let (mode, status) = match end {
        End::PowerOff { status } => (Some(RebootMode::RB_POWER_OFF), status),
        End::Restart => (Some(RebootMode::RB_AUTOBOOT), 0),
        End::Fail { status } => (None, status),
    };
    if is_first_process() {
        supervisor.end_all();
        mounts::leave_clean();
        // The last words are still on their way through the serial port.
        let _ = tcdrain(io::stdout());
        // Refused in a container, which ends with its PID 1 anyway.
        mode.map(reboot);
    }
    ExitCode::from(status)
}
