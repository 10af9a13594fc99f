use super::{Call, call};

pub const CALLS: &[Call] = &[
    call!(SYS_read, "/proc/self/smaps, which was opened before"),
    call!(SYS_close, "the same"),
    call!(
        SYS_fcntl,
        "a debug build asks whether the descriptor that it closes was open",
        absent
    ),
];
