//! What is to be done when this is the first and only process of a guest.

use std::io;
use std::process;
use std::ptr;
use std::thread;

fn is_first_process() -> bool {
    process::id() == 1
}

/// Makes the guest's disks appear in /dev.
pub fn mount_devices() -> io::Result<()> {
    if !is_first_process() {
        return Ok(());
    }
    let kind = c"devtmpfs";
    // SAFETY: the strings end with a zero; there is no data.
    let result = unsafe { libc::mount(kind.as_ptr(), c"/dev".as_ptr(), kind.as_ptr(), 0, ptr::null()) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for the end of the guest, which panics when its first process ends.
pub fn stay() {
    while is_first_process() {
        thread::park();
    }
}
