//! The person's pager in the foreground of the terminal, while the guest runs on.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{BorrowedFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::{env, mem, ptr, thread};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::signals::with_all_blocked;
use super::wait::borrow;

const USUAL: &str = "less -R";

/// A pager that runs, in a process group of its own.
pub struct Pager {
    group: libc::pid_t,
    /// Readable once it has ended.
    ended: Arc<EventFd>,
}

impl Pager {
    /// Shows `text`. Stdin and stdout are the terminal of this process, which is in the foreground and has given it back.
    pub fn start(text: &[u8]) -> io::Result<Self> {
        let program = env::var_os("PAGER").filter(|program| !program.is_empty());
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(program.unwrap_or_else(|| USUAL.into()))
            .stdin(in_memory(text)?);
        // SAFETY: between fork and exec only system calls are made, on one set, which sigemptyset initialises.
        unsafe {
            command.pre_exec(|| {
                libc::setpgid(0, 0);
                // Where the terminal is not that of the session, there is no foreground. SIGTTOU is blocked still.
                libc::tcsetpgrp(libc::STDOUT_FILENO, libc::getpid());
                let mut none = mem::zeroed();
                libc::sigemptyset(&mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
                Ok(())
            });
        }
        let ended = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let group = command.spawn()?.id() as libc::pid_t;
        let pager = Self { group, ended };
        let ended = pager.ended.clone();
        let wait = move || {
            wait_for(group);
            // An eventfd's write fails only when it is readable already.
            let _ = ended.write(1);
        };
        match with_all_blocked(|| thread::Builder::new().name("pager".into()).spawn(wait)) {
            Ok(_) => Ok(pager),
            Err(error) => Err(error),
        }
    }

    pub fn ended(&self) -> BorrowedFd<'_> {
        borrow(&self.ended)
    }

    /// Asks it to end.
    pub fn end(&self) {
        hang_up(self.group);
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.end();
        // SAFETY: a null pointer asks for no status. Until here the number is that of the pager.
        unsafe { libc::waitpid(self.group, ptr::null_mut(), 0) };
    }
}

/// Waits until the pager has ended, and leaves its number to it. One that stops would leave the terminal to nobody, so it is
/// ended.
fn wait_for(group: libc::pid_t) {
    let what = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT;
    loop {
        // SAFETY: zeroes are valid, and waitid writes one siginfo_t.
        let (found, state) = unsafe {
            let mut state: libc::siginfo_t = mem::zeroed();
            (
                libc::waitid(libc::P_PID, group as libc::id_t, &mut state, what),
                state,
            )
        };
        match found == 0 && state.si_code == libc::CLD_STOPPED {
            true => hang_up(group),
            false => return,
        }
    }
}

fn hang_up(group: libc::pid_t) {
    for signal in [libc::SIGHUP, libc::SIGCONT] {
        // SAFETY: no memory is touched.
        unsafe { libc::kill(-group, signal) };
    }
}

/// A file without a name, to be read from its start.
fn in_memory(text: &[u8]) -> io::Result<File> {
    // SAFETY: the name ends with NUL, and the descriptor is ours alone.
    let mut file = unsafe {
        match libc::memfd_create(c"console".as_ptr(), libc::MFD_CLOEXEC) {
            -1 => return Err(io::Error::last_os_error()),
            descriptor => File::from_raw_fd(descriptor),
        }
    };
    file.write_all(text)?;
    file.rewind()?;
    Ok(file)
}
