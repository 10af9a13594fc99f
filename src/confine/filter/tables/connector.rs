use super::Test::Is;
use super::common::NOT_EXECUTABLE;
use super::{Call, call};

pub const CALLS: &[Call] = &[
    call!(SYS_read, "the port that the guest calls"),
    call!(SYS_socket, "a Unix socket, and no other", if Is(0, libc::AF_UNIX as u32)),
    call!(SYS_connect, "to the program that listens for the port"),
    call!(SYS_sendmsg, "the socket goes to the process of the guest"),
    call!(SYS_close, "the socket, once it has been sent"),
    call!(
        SYS_lstat,
        "at the end: is the socket at the path still the one of this run?"
    ),
    call!(SYS_unlink, "at the end: then it is removed"),
    call!(SYS_brk, "the allocator"),
    call!(SYS_mmap, "the allocator", if NOT_EXECUTABLE),
    call!(SYS_munmap, "the allocator"),
    call!(
        SYS_fcntl,
        "a debug build asks whether the descriptor that it closes was open",
        absent
    ),
    call!(SYS_exit_group, "the process ends"),
];
