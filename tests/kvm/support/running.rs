//! The program under test, as a process that is killed when its test ends or waits too long.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Kernel;
use super::ended::Ended;

/// How long a test waits for anything before it fails. Everything takes far less, on a slow machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A run that has not ended. Dropping it kills the process.
pub struct Running {
    child: Child,
    /// Readable once the process has ended.
    pidfd: OwnedFd,
    stdin: Option<ChildStdin>,
    stdout: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    _kernel: Option<Kernel>,
}

impl Running {
    /// A process that has just started. What it prints is read from now on.
    pub(super) fn new(mut child: Child, stdin: Option<ChildStdin>, kernel: Option<Kernel>) -> Self {
        let (sender, stdout) = channel();
        if let Some(mut pipe) = child.stdout.take() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                // The channel fails when the test has stopped reading. Then this thread ends, which closes the pipe.
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    if sender.send(buffer[..count].to_vec()).is_err() {
                        break;
                    }
                }
            });
        }
        let pipe = child.stderr.take();
        let stderr = thread::spawn(move || {
            let mut all = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut all);
            }
            all
        });
        Self {
            pidfd: pidfd(&child),
            child,
            stdin,
            stdout,
            seen: Vec::new(),
            stderr: Some(stderr),
            _kernel: kernel,
        }
    }

    /// Waits until the guest has printed `text`.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !contains(&self.seen, text.as_bytes()) {
            match self
                .stdout
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.seen.extend(bytes),
                Err(error) => {
                    let seen = String::from_utf8_lossy(&self.seen).into_owned();
                    let _ = self.child.kill();
                    let stderr = self.take_stderr();
                    panic!("{error} instead of {text:?}; stdout: {seen:?}; stderr: {stderr}");
                }
            }
        }
    }

    pub fn type_in(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("stdin was left open");
        stdin.write_all(bytes).expect("coracle reads stdin");
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The number of the process in which the guest runs. On a terminal that is a child of the one that was started.
    pub fn machine(&self) -> u32 {
        let id = self.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.expect("this host's kernel tells of children");
        // With --vsock there is another child, which connects to programs of the host.
        let is_machine = |child: &&str| {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm"));
            name.is_ok_and(|name| name.trim() != "vsock-connect")
        };
        let child = children.split_whitespace().find(is_machine);
        child.map_or(id, |child| child.parse().expect("a number"))
    }

    pub fn signal(&self, number: i32) {
        send(self.id(), number);
    }

    /// Sends a signal to the process in which the guest runs.
    pub fn signal_machine(&self, number: i32) {
        send(self.machine(), number);
    }

    /// Waits until the thread of this name is in this system call.
    pub fn wait_until_thread_is_in(&self, thread: &str, call: i64) {
        let tasks = format!("/proc/{}/task", self.machine());
        let call = format!("{call} ");
        let is_in_call = |task: std::fs::DirEntry| {
            let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            read("comm").trim() == thread && read("syscall").starts_with(&call)
        };
        let deadline = Instant::now() + PATIENCE;
        // No event tells of this, so it polls.
        while !std::fs::read_dir(&tasks)
            .expect("the process runs")
            .flatten()
            .any(is_in_call)
        {
            assert!(
                Instant::now() < deadline,
                "{thread} does not wait after {PATIENCE:?}"
            );
            thread::yield_now();
        }
    }

    /// Stops the process with SIGSTOP, waits until it has stopped, and continues it.
    pub fn stop_for(&self, time: Duration) {
        self.signal(libc::SIGSTOP);
        let mut status = 0;
        // SAFETY: the child is not waited for yet; waitpid writes one number.
        let stopped = unsafe { libc::waitpid(self.child.id() as i32, &mut status, libc::WUNTRACED) };
        assert_eq!(stopped, self.child.id() as i32);
        assert!(
            libc::WIFSTOPPED(status),
            "status {status:#x} is not that of a stop"
        );
        thread::sleep(time);
        self.signal(libc::SIGCONT);
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        let begin = Instant::now();
        let deadline = begin + PATIENCE;
        // Reads to the end first, because a process that prints more than the pipe holds cannot end before that.
        let mut late = false;
        loop {
            match self
                .stdout
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.seen.extend(bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    late = true;
                    break;
                }
            }
        }
        self.finish(begin, late)
    }

    /// Waits for the end without reading what the guest prints.
    pub fn end_unread(mut self) -> Ended {
        self.finish(Instant::now(), false)
    }

    fn finish(&mut self, begin: Instant, mut late: bool) -> Ended {
        late = late
            || !becomes_readable(
                &self.pidfd,
                (begin + PATIENCE).saturating_duration_since(Instant::now()),
            );
        if late {
            let _ = self.child.kill();
        }
        let status = self.child.wait().expect("the child can be waited for");
        let ended = Ended {
            code: status.code(),
            signal: status.signal(),
            stdout: std::mem::take(&mut self.seen),
            stderr: self.take_stderr(),
            took: begin.elapsed(),
        };
        assert!(!late, "still running after {PATIENCE:?}: {}", ended.describe());
        ended
    }

    fn take_stderr(&mut self) -> String {
        let all = self
            .stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        String::from_utf8_lossy(&all).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that has not been waited for.
fn send(id: u32, number: i32) {
    // SAFETY: no memory is touched.
    let result = unsafe { libc::kill(id as i32, number) };
    assert_eq!(result, 0, "signal {number} can be sent");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn pidfd(child: &Child) -> OwnedFd {
    // SAFETY: a system call without pointers; it returns a descriptor that is ours alone.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id() as libc::pid_t, 0) };
    assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: as above.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn becomes_readable(fd: &OwnedFd, within: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, as it says.
    unsafe { libc::poll(&mut poll, 1, within.as_millis() as i32) == 1 }
}
