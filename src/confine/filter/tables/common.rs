use super::Test::{Is, IsNot, IsOwnProcess, Masked};
use super::{Call, call};

/// The second argument of ioctl(2).
pub const REQUEST: u8 = 1;
/// The third argument of mmap(2) and mprotect(2) asks for no memory that can be executed.
pub const NOT_EXECUTABLE: super::Test = Masked(2, libc::PROT_EXEC as u32, 0);

pub const CALLS: &[Call] = &[
    call!(SYS_write, "events for other threads, and text"),
    call!(SYS_futex, "locks, and waits for other threads"),
    call!(
        SYS_sched_yield,
        "the standard library's channels, for a moment, before they wait"
    ),
    call!(
        SYS_clock_gettime,
        "the time, on a host whose clock cannot be read without a call"
    ),
    // Memory.
    call!(SYS_brk, "the allocator"),
    call!(SYS_mmap, "the allocator, for large pieces", if NOT_EXECUTABLE),
    call!(SYS_mremap, "the allocator, for large pieces that grow"),
    call!(
        SYS_munmap,
        "the allocator, and the stack for signals of a thread that ends"
    ),
    call!(
        SYS_madvise,
        "the C library: it frees the stack of a thread that ends"
    ),
    // The end of the thread.
    call!(SYS_sigaltstack, "the standard library, when a thread ends"),
    call!(
        SYS_rt_sigprocmask,
        "the C library, when a thread ends and when it sends a signal"
    ),
    call!(SYS_exit, "a thread ends"),
    // The end of the process, after a panic, for lack of memory, or because a filter refused a call.
    call!(
        SYS_rt_sigaction,
        "abort(3), and the standard library's handler for bad addresses; that of a refused call stays",
        if IsNot(0, libc::SIGSYS as u32)
    ),
    call!(SYS_rt_sigreturn, "the end of a signal's handler"),
    call!(SYS_getpid, "abort(3), and signals that stop vCPUs"),
    call!(SYS_gettid, "abort(3)"),
    call!(SYS_tgkill, "the same; only threads of this process get a signal", if IsOwnProcess(0)),
    call!(
        SYS_getpgrp,
        "the terminal is restored unless another process has it"
    ),
    call!(SYS_ioctl, "is it a terminal?", if Is(REQUEST, libc::TCGETS as u32)),
    call!(SYS_ioctl, "the terminal's modes are restored", if Is(REQUEST, libc::TCSETS as u32)),
    call!(SYS_ioctl, "which process has the terminal?", if Is(REQUEST, libc::TIOCGPGRP as u32)),
    call!(
        SYS_ioctl,
        "what was typed for the guest is thrown away",
        if Is(REQUEST, libc::TCFLSH as u32)
    ),
    call!(SYS_poll, "a stalled reader of the last words is not waited for"),
    call!(SYS_exit_group, "the process ends"),
];
