//! The program under test, as a process that is killed when its test ends or waits too long.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Kernel;
use super::job::Shell;
use super::terminal::Terminal;

/// How long a test waits for anything before it fails. Everything takes far less, on a slow machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A command line of `coracle`, and what it is started with.
pub struct Coracle {
    command: Command,
    /// Bytes for stdin, which ends after them. With `None` stdin stays open.
    input: Option<Vec<u8>>,
    /// Stdin, if it is not a pipe.
    stdin: Option<Stdio>,
    /// Held so that the file exists as long as the process may open it.
    kernel: Option<Kernel>,
}

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

/// A run that is over.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; none when a signal killed the process.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

impl Coracle {
    /// `coracle` with these arguments and an empty stdin.
    pub fn new(arguments: &[&str]) -> Self {
        Self::program(Path::new(env!("CARGO_BIN_EXE_coracle")), arguments)
    }

    /// A copy of `coracle` at another path.
    pub fn program(program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            command,
            input: Some(Vec::new()),
            stdin: None,
            kernel: None,
        }
    }

    /// `coracle run` with this kernel.
    pub fn run(kernel: &Kernel) -> Self {
        let mut coracle = Self::new(&["run", "--kernel"]);
        coracle.command.arg(kernel.path());
        coracle.kernel = Some(kernel.clone());
        coracle
    }

    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Writes this to stdin and then closes it.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Leaves stdin open, for [`Running::type_in`].
    pub fn keyboard(mut self) -> Self {
        self.input = None;
        self
    }

    pub fn stdout(mut self, file: impl Into<Stdio>) -> Self {
        self.command.stdout(file);
        self
    }

    /// Has stdin and stdout on a person's terminal.
    pub fn on_terminal(mut self, terminal: &Terminal) -> Self {
        self.input = None;
        self.stdin = Some(
            terminal
                .program
                .try_clone()
                .expect("a terminal can be shared")
                .into(),
        );
        let stdout = terminal.program.try_clone().expect("a terminal can be shared");
        self.stdout(stdout)
    }

    /// Instead of a pipe that is typed into.
    pub fn stdin(mut self, file: impl Into<Stdio>) -> Self {
        self.input = None;
        self.stdin = Some(file.into());
        self
    }

    /// In the background of a session whose terminal is its stdin.
    pub fn into_job(mut self) -> (Self, Shell) {
        let shell = Shell::around(&mut self.command);
        (self, shell)
    }

    pub fn stderr(mut self, file: impl Into<Stdio>) -> Self {
        self.command.stderr(file);
        self
    }

    /// Another program that ends by becoming this command, such as a shell with `exec "$@"`.
    pub fn through(mut self, program: &[&str]) -> Self {
        let mut command = Command::new(program[0]);
        command
            .args(&program[1..])
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.command = command;
        self
    }

    /// In a sandbox that forbids io_uring, as containers' do.
    pub fn without_io_uring(self) -> Self {
        self.without_call(libc::SYS_io_uring_setup)
    }

    /// In a sandbox that forbids a system call.
    pub fn without_call(self, number: i64) -> Self {
        self.where_call_is(number, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32)
    }

    /// In a sandbox that ends processes that make a system call, as systemd's SystemCallFilter= does.
    pub fn where_call_kills(self, number: i64) -> Self {
        self.where_call_is(number, libc::SECCOMP_RET_KILL_PROCESS)
    }

    fn where_call_is(mut self, number: i64, answered: u32) -> Self {
        // SAFETY: between fork and exec only system calls are made.
        unsafe { self.command.pre_exec(move || answer_call(number, answered)) };
        self
    }

    /// Started by a parent that has blocked all signals.
    pub fn with_all_signals_blocked(mut self) -> Self {
        // SAFETY: sigfillset and sigprocmask may be called between fork and exec; the first initialises what the second
        // reads.
        unsafe {
            self.command.pre_exec(|| {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&mut all);
                match libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut()) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        self
    }

    /// Started by a parent that ignores a signal.
    pub fn with_ignored(mut self, signal: libc::c_int) -> Self {
        // SAFETY: signal may be called between fork and exec.
        unsafe {
            self.command.pre_exec(move || {
                libc::signal(signal, libc::SIG_IGN);
                Ok(())
            });
        }
        self
    }

    /// Started by root, it becomes a user of its own once the files are open. What the host counts for a user, such as
    /// threads and the memory of rings, is then not that of other runs.
    pub fn with_user_of_its_own(self) -> Self {
        /// In nobody's range of users.
        static NEXT: AtomicU32 = AtomicU32::new(0x7fff_1234);
        // SAFETY: the call has no preconditions.
        match unsafe { libc::geteuid() } {
            0 => self.args(&["--user", &NEXT.fetch_add(1, Ordering::Relaxed).to_string()]),
            _ => self,
        }
    }

    /// As a user who may have so many processes and threads.
    pub fn with_processes_at_most(mut self, count: u64) -> Self {
        let limit = libc::rlimit {
            rlim_cur: count,
            rlim_max: count,
        };
        // SAFETY: between fork and exec only a system call is made, which reads one rlimit.
        unsafe {
            self.command
                .pre_exec(move || match libc::setrlimit(libc::RLIMIT_NPROC, &limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                });
        }
        self.with_user_of_its_own()
    }

    /// As root without root's capabilities.
    pub fn without_capabilities(mut self) -> Self {
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            self.command.pre_exec(|| {
                for capability in 0..64 {
                    libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
                }
                Ok(())
            });
        }
        self
    }

    pub fn start(mut self) -> Running {
        // A shell ignores SIGINT in its background jobs, and nohup(1) ignores SIGHUP. Coracle would inherit that from the
        // tests. SAFETY: signal may be called between fork and exec.
        unsafe {
            self.command.pre_exec(|| {
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            });
        }
        let stdin = self.stdin.take().unwrap_or_else(Stdio::piped);
        let started = self.command.stdin(stdin).spawn();
        let mut child = started.expect("coracle can be started");
        let mut stdin = child.stdin.take();
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
        if let Some(input) = self.input.take() {
            let mut pipe = stdin.take().expect("stdin is a pipe");
            // On a thread of its own, because a guest may never read it. When the process ends, the write fails and the
            // thread ends.
            thread::spawn(move || {
                let _ = pipe.write_all(&input);
            });
        }
        Running {
            pidfd: pidfd(&child),
            child,
            stdin,
            stdout,
            seen: Vec::new(),
            stderr: Some(stderr),
            _kernel: self.kernel,
        }
    }

    /// Runs to the end.
    pub fn end(self) -> Ended {
        let begin = Instant::now();
        let mut ended = self.start().end();
        ended.took = begin.elapsed();
        ended
    }
}

impl Running {
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

    pub fn signal(&self, number: i32) {
        // SAFETY: the child is not waited for yet, so its number is its own.
        let result = unsafe { libc::kill(self.child.id() as i32, number) };
        assert_eq!(result, 0, "signal {number} can be sent");
    }

    /// Waits until the thread of this name is in this system call.
    pub fn wait_until_thread_is_in(&self, thread: &str, call: i64) {
        let tasks = format!("/proc/{}/task", self.child.id());
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

impl Ended {
    /// Asserts the exit code.
    #[track_caller]
    pub fn with_code(self, code: u8) -> Self {
        assert_eq!(self.code, Some(code.into()), "{}", self.describe());
        self
    }

    /// Asserts that stderr says each of these.
    #[track_caller]
    pub fn saying(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?}: {}", self.describe());
        }
        self
    }

    /// Asserts that stderr is empty.
    #[track_caller]
    pub fn in_silence(self) -> Self {
        assert_eq!(self.stderr, "", "{}", self.describe());
        self
    }

    pub fn describe(&self) -> String {
        let Self {
            code,
            signal,
            stdout,
            stderr,
            took,
        } = self;
        let stdout = String::from_utf8_lossy(&stdout[..stdout.len().min(2000)]);
        format!("code {code:?}, signal {signal:?} after {took:?}\nstdout: {stdout:?}\nstderr: {stderr}")
    }
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

/// A pipe that holds one page: its reading end and its writing end.
pub fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are ours alone.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(result, 0, "a pipe can be made");
    // SAFETY: no pointers; the descriptor is open.
    unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, 4096) };
    // SAFETY: as above.
    unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) }
}

/// Waits until a pipe or a terminal, by its writing end, takes no more.
pub fn wait_until_full(pipe: &impl AsRawFd) {
    let deadline = Instant::now() + PATIENCE;
    let mut poll = libc::pollfd {
        fd: pipe.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // No event tells when it becomes full, so it polls. SAFETY: one pollfd, as it says.
    while unsafe { libc::poll(&mut poll, 1, 0) } != 0 {
        assert!(Instant::now() < deadline, "it has room after {PATIENCE:?}");
        thread::yield_now();
    }
}

/// A seccomp filter of this process and those that it becomes: a system call is not made, but answered in this way.
fn answer_call(number: i64, answer: u32) -> std::io::Result<()> {
    let instruction = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let mut filter = [
        // The number of the system call is the first field of seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, answer),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads the program, which lives beyond the calls.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program)
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
