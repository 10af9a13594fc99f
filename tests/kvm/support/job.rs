//! Coracle as a job of a session with a terminal, under a parent that does what a shell with job control does.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives the terminal to the job, as `fg` does, but without a SIGCONT.
const FOREGROUND: u8 = b'f';
/// Sends SIGTERM to the job.
const TERMINATE: u8 = b't';
/// Waits for the job's end and answers with its exit code.
const WAIT: u8 = b'w';

/// The parent of a job, at the other end of a socket. It ends with the socket.
pub struct Shell(UnixStream);

impl Shell {
    /// Makes `command` start as a job in the background of a new session, whose terminal is its stdin.
    pub fn around(command: &mut Command) -> Self {
        let (test, shell) = UnixStream::pair().expect("a pair of sockets can be made");
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                if libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                match libc::fork() {
                    -1 => Err(std::io::Error::last_os_error()),
                    0 => {
                        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                        libc::setpgid(0, 0);
                        Ok(())
                    }
                    job => {
                        libc::setpgid(job, job);
                        be_shell(shell.as_raw_fd(), job)
                    }
                }
            });
        }
        Self(test)
    }

    pub fn give_terminal_to_job(&mut self) {
        self.order(FOREGROUND);
    }

    pub fn terminate_job(&mut self) {
        self.order(TERMINATE);
    }

    /// The job's exit code, or 255 if a signal ended it.
    pub fn wait_for_job(&mut self) -> u8 {
        self.order(WAIT);
        let mut code = [0];
        self.0.read_exact(&mut code).expect("the shell answers");
        code[0]
    }

    fn order(&mut self, order: u8) {
        self.0.write_all(&[order]).expect("the shell takes orders");
    }
}

/// Obeys what comes from the socket, until its end.
///
/// # Safety
/// For a process that has just forked: only system calls are made.
unsafe fn be_shell(socket: i32, job: i32) -> ! {
    const SOCKET: i32 = 3;
    // SAFETY: system calls, on memory of this function. The descriptors that are closed belong to nobody here: the parent
    // waits until its own are.
    unsafe {
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        libc::dup2(socket, SOCKET);
        libc::syscall(libc::SYS_close_range, SOCKET + 1, u32::MAX, 0);
        let mut order = 0u8;
        while libc::read(SOCKET, (&raw mut order).cast(), 1) == 1 {
            match order {
                FOREGROUND => _ = libc::tcsetpgrp(libc::STDIN_FILENO, job),
                TERMINATE => _ = libc::kill(job, libc::SIGTERM),
                _ => {
                    let mut status = 0;
                    libc::waitpid(job, &mut status, 0);
                    let code = match libc::WIFEXITED(status) {
                        true => libc::WEXITSTATUS(status) as u8,
                        false => u8::MAX,
                    };
                    libc::write(SOCKET, (&raw const code).cast(), 1);
                }
            }
        }
        libc::_exit(0)
    }
}
