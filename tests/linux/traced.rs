//! A program whose system calls are counted, and which is killed at one of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use libc::{c_int, c_void, pid_t};

/// System calls that change something which others see: files, sockets, locks, processes.
const CHANGING: [i64; 39] = [
    libc::SYS_bind,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_connect,
    libc::SYS_dup2,
    libc::SYS_execve,
    libc::SYS_exit_group,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fork,
    libc::SYS_ftruncate,
    libc::SYS_kill,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mount,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pivot_root,
    libc::SYS_pwrite64,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_seccomp,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsid,
    libc::SYS_shutdown,
    libc::SYS_socket,
    libc::SYS_symlink,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_unshare,
    libc::SYS_vfork,
    libc::SYS_write,
];

/// Runs `command`. The process that is about to make the call number `at` of those that change something, from 0, is killed
/// (SIGKILL): the program itself, or one that it has started. Those that outlive the program go on untraced. Returns how many such
/// calls there were until the program had ended.
pub fn run_until(command: Command, at: Option<usize>) -> usize {
    // When the thread ends that traces, the kernel lets all go that it traces.
    let tracer = thread::spawn(move || trace(command, at));
    let (calls, seen) = tracer.join().expect("the tracer does not panic");
    // One that had just been made stops with a signal, which its tracer has not taken.
    for thread in seen {
        // SAFETY: no memory is touched.
        unsafe { libc::kill(thread, libc::SIGCONT) };
    }
    calls
}

/// Returns the threads and processes that were traced, too.
fn trace(mut command: Command, at: Option<usize>) -> (usize, BTreeSet<pid_t>) {
    // SAFETY: between fork and exec only a system call is made.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let program = command.spawn().expect("it can be started").id() as pid_t;
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE;
    let mut has_options = false;
    let mut calls = 0;
    let mut seen = BTreeSet::new();
    loop {
        let (thread, status) = wait();
        if !libc::WIFSTOPPED(status) {
            if thread == program {
                return (calls, seen);
            }
            continue;
        }
        if !has_options {
            has_options = true;
            request(libc::PTRACE_SETOPTIONS, thread, options as usize);
        }
        seen.insert(thread);
        if status >> 16 != 0 {
            seen.extend(new_thread(thread));
        }
        let mut passed_on = 0;
        match libc::WSTOPSIG(status) {
            signal if signal == libc::SIGTRAP | 0x80 => {
                if let Some(call) = call_begun(thread)
                    && CHANGING.contains(&call)
                {
                    if at == Some(calls) {
                        // SAFETY: no memory is touched.
                        unsafe { libc::kill(process_of(thread), libc::SIGKILL) };
                    }
                    calls += 1;
                }
            }
            // The stops of a program's start, of a new process and of a new thread.
            libc::SIGTRAP | libc::SIGSTOP => (),
            signal => passed_on = signal as usize,
        }
        request(libc::PTRACE_SYSCALL, thread, passed_on);
    }
}

/// Waits for a child of this thread, or for one that it traces.
fn wait() -> (pid_t, c_int) {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes `status`.
        match unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) } {
            -1 => {
                let error = io::Error::last_os_error();
                assert_eq!(error.kind(), io::ErrorKind::Interrupted, "waitpid: {error}");
            }
            thread => return (thread, status),
        }
    }
}

/// A thread that was killed meanwhile is none any more, so errors mean nothing.
fn request(request: libc::c_uint, thread: pid_t, data: usize) {
    // SAFETY: these requests take numbers.
    unsafe { libc::ptrace(request, thread, 0, data) };
}

/// What a thread has just made, which is traced from its start.
fn new_thread(thread: pid_t) -> Option<pid_t> {
    let mut made: libc::c_ulong = 0;
    // SAFETY: the kernel writes `made`.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, thread, 0, &raw mut made) };
    (result == 0 && made != 0).then_some(made as pid_t)
}

/// The number of the system call that a thread which has stopped is about to make.
fn call_begun(thread: pid_t) -> Option<i64> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    // SAFETY: the kernel writes as much as the structure has room for.
    unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            thread,
            size_of::<libc::ptrace_syscall_info>(),
            info.as_mut_ptr().cast::<c_void>(),
        );
        let info = info.assume_init();
        (info.op == libc::PTRACE_SYSCALL_INFO_ENTRY).then_some(info.u.entry.nr as i64)
    }
}

/// The process of a thread.
fn process_of(thread: pid_t) -> pid_t {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let number = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    number
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(thread)
}
