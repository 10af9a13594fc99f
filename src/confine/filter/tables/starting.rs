use super::Test::Is;
use super::common::NOT_EXECUTABLE;
use super::{Call, call};

/// linux/sched.h: what makes a thread of this process, as the C library asks for it, and nothing else.
const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u32;
pub const CALLS: &[Call] = &[
    call!(
        SYS_clone,
        "a thread of this process, with no more and no less than the C library's flags",
        if Is(0, THREAD)
    ),
    call!(
        SYS_clone3,
        "its flags are in memory, where no filter can check them: the C library calls clone then",
        absent
    ),
    call!(SYS_mprotect, "a thread's stack", if NOT_EXECUTABLE),
    call!(SYS_set_robust_list, "a thread that starts"),
    call!(SYS_rseq, "a thread that starts"),
    call!(
        SYS_sched_getaffinity,
        "the standard library: it asks the C library for the bounds of a thread's stack"
    ),
    call!(SYS_prctl, "a thread's name", if Is(0, libc::PR_SET_NAME as u32)),
];
