//! The program under test, as a command line and what it is started with.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use super::Kernel;
use super::ended::Ended;
use super::job::Shell;
use super::running::Running;
use super::terminal::Terminal;

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

    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// With this environment variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn stderr(mut self, file: impl Into<Stdio>) -> Self {
        self.command.stderr(file);
        self
    }

    /// Another program that ends by becoming this command, such as a shell with `exec "$@"`. It inherits no descriptors that
    /// whoever started the tests left open, since a limit that the shell sets would count them.
    pub fn through(mut self, program: &[&str]) -> Self {
        let mut command = Command::new(program[0]);
        command
            .args(&program[1..])
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: between fork and exec only a system call is made.
        unsafe {
            command.pre_exec(|| {
                match libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
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
            0 => self.args(&["--host-user", &NEXT.fetch_add(1, Ordering::Relaxed).to_string()]),
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
        if let Some(input) = self.input.take() {
            let mut pipe = stdin.take().expect("stdin is a pipe");
            // On a thread of its own, because a guest may never read it. When the process ends, the write fails and the
            // thread ends.
            thread::spawn(move || {
                let _ = pipe.write_all(&input);
            });
        }
        Running::new(child, stdin, self.kernel)
    }

    /// Runs to the end.
    pub fn end(self) -> Ended {
        let begin = Instant::now();
        let mut ended = self.start().end();
        ended.took = begin.elapsed();
        ended
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
