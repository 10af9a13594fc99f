//! A thread of another process that makes system calls for a test, as it would for an attacker who has taken the process over.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use libc::c_long;

use super::Running;
use super::running::PATIENCE;

/// What a call returns when it made the host end the process.
const ENDED: &str = "the process was ended because of the call";
/// The stops of a thread at the start and at the end of a system call, as PTRACE_O_TRACESYSGOOD marks them.
const AT_CALL: i32 = libc::SIGTRAP | 0x80;
/// A space below what the thread uses of its stack.
const SCRATCH: u64 = 8192;

/// The thread, which stands at the start of a system call of its own.
pub struct Owned {
    thread: i32,
    is_main: bool,
    memory: File,
    own_call: libc::user_regs_struct,
    is_at_own_call: bool,
    has_ended: bool,
}

/// The threads of a process that run its own code, with their names. Each gives itself its name when it first runs, and has
/// main's until then, so this waits until main alone has that. No event tells of it, so it polls.
pub fn threads(running: &Running) -> Vec<(i32, String)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let threads = threads_now(running);
        let main = threads.iter().find(|(id, _)| *id == running.machine() as i32);
        let mains = threads
            .iter()
            .filter(|(_, name)| main.is_some_and(|(_, main)| main == name));
        if mains.count() == 1 {
            return threads;
        }
        assert!(Instant::now() < deadline, "{threads:?} after {PATIENCE:?}");
        thread::yield_now();
    }
}

fn threads_now(running: &Running) -> Vec<(i32, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.machine())).unwrap();
    let threads = tasks.map(|task| {
        let task = task.unwrap();
        let name = fs::read_to_string(task.path().join("comm")).unwrap();
        let id = task.file_name().to_str().unwrap().parse().unwrap();
        (id, name.trim().to_owned())
    });
    // KVM and io_uring have threads inside the kernel that are listed, too.
    threads
        .filter(|(_, name)| !name.starts_with("kvm-") && !name.starts_with("iou-"))
        .collect()
}

/// Waits until there is a thread of this name. No event tells of that, so it polls.
pub fn wait_for_thread(running: &Running, name: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !threads(running).iter().any(|(_, other)| other == name) {
        assert!(Instant::now() < deadline, "no thread {name} after {PATIENCE:?}");
        thread::yield_now();
    }
}

/// Whether a call was refused, or found no file of that name, or its process ended because of it.
pub fn is_refusal(error: &io::Error) -> bool {
    let is_refused = matches!(
        error.raw_os_error(),
        Some(libc::EACCES | libc::EPERM | libc::ENOENT)
    );
    is_refused || error.to_string() == ENDED
}

impl Owned {
    /// Takes a thread over.
    pub fn take(running: &Running, thread: i32) -> Self {
        let path = format!("/proc/{}/mem", running.machine());
        let memory = File::options().read(true).write(true).open(path);
        trace(libc::PTRACE_SEIZE, thread, libc::PTRACE_O_TRACESYSGOOD as usize);
        let mut owned = Self {
            thread,
            is_main: thread == running.machine() as i32,
            memory: memory.unwrap(),
            // SAFETY: zeroes are valid registers.
            own_call: unsafe { mem::zeroed() },
            is_at_own_call: false,
            has_ended: false,
        };
        trace(libc::PTRACE_INTERRUPT, thread, 0);
        owned.wait().expect("the thread runs");
        // What the thread was doing was interrupted, and it does it again, or something else, by another call.
        owned.run_to_call().expect("the thread makes calls");
        owned.own_call = owned.registers();
        owned.is_at_own_call = true;
        owned
    }

    /// Whether the process was ended by a call that was made here.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Makes a system call.
    pub fn call(&mut self, number: c_long, arguments: &[c_long]) -> io::Result<c_long> {
        if !mem::take(&mut self.is_at_own_call) {
            self.go_to_call()?;
        }
        self.set(number, arguments);
        self.run_to_call()?;
        if self.is_about_to_end() {
            // A process whose thread is still traced does not end for its parent.
            trace(libc::PTRACE_DETACH, self.thread, 0);
            self.has_ended = true;
            return Err(io::Error::other(ENDED));
        }
        match self.registers().rax as c_long {
            error @ -4095..0 => Err(io::Error::from_raw_os_error(-error as i32)),
            result => Ok(result),
        }
    }

    /// Makes a system call and lets the process go.
    pub fn call_and_leave(mut self, number: c_long, arguments: &[c_long]) {
        assert!(self.is_at_own_call);
        self.set(number, arguments);
        trace(libc::PTRACE_DETACH, self.thread, 0);
        self.has_ended = true;
    }

    /// Puts bytes where the thread can read them, in one of 16 places of 256 bytes, and gives the address.
    pub fn put(&self, bytes: &[u8], place: u64) -> c_long {
        assert!(bytes.len() <= 256 && place < 16);
        let address = self.own_call.rsp - SCRATCH + place * 256;
        self.write(address as c_long, bytes);
        address as c_long
    }

    pub fn write(&self, address: c_long, bytes: &[u8]) {
        self.memory.write_all_at(bytes, address as u64).unwrap();
    }

    pub fn read_u32(&self, address: c_long) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, address as u64).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Puts text and the NUL behind it.
    pub fn text(&self, text: &str, place: u64) -> c_long {
        self.put(format!("{text}\0").as_bytes(), place)
    }

    /// Opens a file.
    pub fn open(&mut self, path: &str, flags: i32) -> io::Result<c_long> {
        let path = self.text(path, 0);
        let arguments = [libc::AT_FDCWD.into(), path, flags.into(), 0o600];
        self.call(libc::SYS_openat, &arguments)
    }

    /// From the end of a call to the start of the same one.
    fn go_to_call(&mut self) -> io::Result<()> {
        let registers = libc::user_regs_struct {
            // The instruction `syscall` has two bytes.
            rip: self.own_call.rip - 2,
            rax: self.own_call.orig_rax,
            // No call is to be made again because it was interrupted.
            orig_rax: u64::MAX,
            ..self.own_call
        };
        self.set_registers(registers);
        self.run_to_call()
    }

    fn set(&self, number: c_long, arguments: &[c_long]) {
        let argument = |index: usize| arguments.get(index).copied().unwrap_or(0) as u64;
        self.set_registers(libc::user_regs_struct {
            orig_rax: number as u64,
            rdi: argument(0),
            rsi: argument(1),
            rdx: argument(2),
            r10: argument(3),
            r8: argument(4),
            r9: argument(5),
            ..self.own_call
        });
    }

    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: zeroes are valid registers.
        let mut registers: libc::user_regs_struct = unsafe { mem::zeroed() };
        trace(libc::PTRACE_GETREGS, self.thread, &raw mut registers as usize);
        registers
    }

    fn set_registers(&self, registers: libc::user_regs_struct) {
        trace(libc::PTRACE_SETREGS, self.thread, &raw const registers as usize);
    }

    /// Runs to the next start or end of a system call. Passes on the signals that come meanwhile.
    fn run_to_call(&mut self) -> io::Result<()> {
        let mut signal = 0;
        loop {
            trace(libc::PTRACE_SYSCALL, self.thread, signal);
            match self.wait()? {
                AT_CALL => return Ok(()),
                // Stops of the whole process and of ptrace's own.
                libc::SIGTRAP | libc::SIGSTOP => signal = 0,
                number => signal = number as usize,
            }
        }
    }

    /// Waits until the thread stops, and gives the signal that it stops with; fails if it ends.
    fn wait(&mut self) -> io::Result<i32> {
        let mut status = 0;
        // SAFETY: zeroes are a valid siginfo_t.
        let mut information: libc::siginfo_t = unsafe { mem::zeroed() };
        let how = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::__WALL;
        // SAFETY: the call writes one siginfo_t.
        let waited = unsafe { libc::waitid(libc::P_PID, self.thread as u32, &mut information, how) };
        assert_eq!(waited, 0, "waitid: {}", io::Error::last_os_error());
        let has_ended = matches!(
            information.si_code,
            libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED
        );
        // Of the end of the process whoever has started it is to know.
        if !(has_ended && self.is_main) {
            // SAFETY: the call writes one status.
            unsafe { libc::waitpid(self.thread, &mut status, libc::__WALL) };
        }
        match has_ended {
            true => {
                self.has_ended = true;
                Err(io::Error::other(ENDED))
            }
            false => Ok(libc::WSTOPSIG(status)),
        }
    }

    /// Whether the call was refused by a signal (SECCOMP_RET_TRAP), which the thread has not received yet.
    fn is_about_to_end(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.thread)).unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
        let pending = u64::from_str_radix(pending.unwrap().trim(), 16).unwrap();
        pending & 1 << (libc::SIGSYS - 1) != 0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.has_ended || std::thread::panicking() {
            return;
        }
        // The thread goes on with its own call.
        if !self.is_at_own_call && self.go_to_call().is_err() {
            return;
        }
        self.set_registers(self.own_call);
        trace(libc::PTRACE_DETACH, self.thread, 0);
    }
}

fn trace(request: libc::c_uint, thread: i32, data: usize) {
    // SAFETY: data is a number, or the address of registers that outlive the call.
    let result = unsafe { libc::ptrace(request, thread, 0usize, data) };
    assert_eq!(result, 0, "ptrace {request:#x}: {}", io::Error::last_os_error());
}
