use super::Test::{IsChild, IsOwnProcess};
use super::{Call, call};

pub const CALLS: &[Call] = &[
    call!(SYS_rt_sigtimedwait, "the next signal"),
    call!(SYS_wait4, "how has the child ended, or has it stopped?"),
    call!(SYS_kill, "a signal is passed on", if IsChild(0)),
    call!(SYS_kill, "it stops with its child, and ends by the same signal", if IsOwnProcess(0)),
];
