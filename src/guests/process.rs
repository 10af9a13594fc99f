use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::control::connect;
use crate::console::{For, wait};
use crate::unix_socket;

/// The process of a guest that runs. It cannot be mistaken for a later process with the same number.
pub struct Process {
    descriptor: OwnedFd,
    number: i32,
}

impl Process {
    /// The process that listens at this socket. No file has to be believed for that: the kernel says who it is.
    pub fn reach(socket: &Path) -> io::Result<Self> {
        Self::behind(&connect(socket)?)
    }

    /// The process that listens where this was connected.
    pub fn behind(stream: &UnixStream) -> io::Result<Self> {
        let (number, descriptor) = unix_socket::listener(stream)?;
        let process = Self { descriptor, number };
        // The number was that of the listener when the descriptor was made if the listener lives still.
        match unix_socket::hangs_up(stream, Duration::ZERO)? {
            false => Ok(process),
            true => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Its number, for people.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Sends a signal.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let no_details = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the call reads no siginfo_t when the pointer to it is null.
        match unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.descriptor.as_raw_fd(),
                number,
                no_details,
                0,
            )
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits for the end of the process, for `patience` at most. Returns whether it has ended.
    pub fn wait(&self, patience: Option<Duration>) -> io::Result<bool> {
        wait([Some(For::Reading(self.descriptor.as_fd()))], patience).map(|[ended]| ended)
    }
}

/// Becomes readable when the process has ended.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Tells when a file is written.
pub struct Watch(File);

impl Watch {
    pub fn on(path: &Path) -> io::Result<Self> {
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: system calls; the path ends with NUL, and the descriptor is ours alone.
        unsafe {
            let watch = libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK);
            if watch == -1 {
                return Err(io::Error::last_os_error());
            }
            let watch = Self(File::from_raw_fd(watch));
            match libc::inotify_add_watch(watch.0.as_raw_fd(), path.as_ptr(), libc::IN_MODIFY) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(watch),
            }
        }
    }

    /// Forgets what it has told.
    pub fn reset(&mut self) {
        let mut events = [0; 4096];
        // It fails when there is nothing to forget.
        let _ = io::Read::read(&mut self.0, &mut events);
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
