use super::Test::Is;
use super::common::REQUEST;
use super::{Call, call};

/// linux/falloc.h: FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE.
const PUNCH_HOLE: u32 = 3;

pub const CALLS: &[Call] = &[
    call!(
        SYS_ioctl,
        "the terminal has taken all output, so the next program's begins after it",
        if Is(REQUEST, libc::TCSBRK as u32)
    ),
    call!(
        SYS_restart_syscall,
        "a wait for some time goes on after the process was stopped"
    ),
    call!(SYS_close, "its own descriptor of stdout, or of the guest's log"),
    call!(
        SYS_fallocate,
        "what is old in the guest's log takes no room any more",
        if Is(1, PUNCH_HOLE)
    ),
    call!(
        SYS_fcntl,
        "a debug build asks whether the descriptor that it closes was open",
        absent
    ),
];
