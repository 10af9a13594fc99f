//! The serial port that the guest's console is on, made fit for a person or a pipe.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;
use nix::sys::stat::{fstat, makedev};
use nix::sys::termios::{ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, tcgetattr, tcsetattr};

use crate::cmdline::Settings;
use crate::say::complain;

const PORT: &str = "/dev/ttyS0";

mod ioctl {
    use nix::libc;
    nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
}

/// Whether stdin is what the kernel gives its first process: /dev/console, device 5:1 (Linux admin-guide/devices).
/// The first process of a container has another stdin, and the devices that it sees are those of the machine below.
pub fn is_kernel_console() -> bool {
    fstat(io::stdin()).is_ok_and(|stdin| stdin.st_rdev == makedev(5, 1))
}

/// Opens the serial port and sets it up. Returns nothing when there is none, or when it is not this guest's console.
pub fn open(settings: &Settings) -> Option<File> {
    if !is_kernel_console() {
        return None;
    }
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(PORT)
        .ok()?;
    // This fails when there is a device file and no port.
    let mut modes = tcgetattr(&port).ok()?;
    modes.input_flags = InputFlags::ICRNL | InputFlags::IXON | InputFlags::IUTF8;
    modes.output_flags = OutputFlags::OPOST | OutputFlags::ONLCR;
    modes.local_flags = LocalFlags::ISIG
        | LocalFlags::ICANON
        | LocalFlags::IEXTEN
        | LocalFlags::ECHO
        | LocalFlags::ECHOE
        | LocalFlags::ECHOK
        | LocalFlags::ECHOCTL
        | LocalFlags::ECHOKE;
    // CRTSCTS: Coracle stops sending while the port asks it to, so no byte of a long paste is lost.
    // B115200: the line has no speed of its own, but the kernel derives its time limits from this one.
    modes.control_flags = ControlFlags::from_bits_retain(libc::B115200)
        | ControlFlags::CS8
        | ControlFlags::CREAD
        | ControlFlags::HUPCL
        | ControlFlags::CLOCAL
        | ControlFlags::CRTSCTS;
    if let Err(why) = tcsetattr(&port, SetArg::TCSANOW, &modes) {
        complain(format_args!("cannot set up {PORT}: {why}"));
    }
    if let Some((rows, columns)) = settings.size {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads one winsize, which lives across the call, from a descriptor that is open.
        if let Err(why) = unsafe { ioctl::set_window_size(port.as_raw_fd(), &size) } {
            complain(format_args!("cannot set the size of {PORT}: {why}"));
        }
    }
    Some(port)
}
