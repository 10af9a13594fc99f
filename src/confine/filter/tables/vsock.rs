use super::Test::Is;
use super::common::REQUEST;
use super::{Call, call, kvm};

/// linux/socket.h: the bytes stay in the socket.
const PEEK: u32 = libc::MSG_PEEK as u32;

pub const CALLS: &[Call] = &[
    call!(
        SYS_epoll_wait,
        "notifications by the driver, and what programs of the host do"
    ),
    call!(SYS_readv, "a program sends, for the guest's buffers"),
    call!(SYS_writev, "the guest sends, from its buffers"),
    call!(SYS_ioctl, "the device's interrupt", if Is(REQUEST, kvm::IRQ_LINE)),
    call!(SYS_accept4, "a program connects"),
    call!(SYS_ioctl, "the socket of a program never blocks", if Is(REQUEST, libc::FIONBIO as u32)),
    call!(SYS_recvfrom, "to which port does a program want to be connected?", if Is(3, PEEK)),
    call!(SYS_recvfrom, "the same", if Is(3, 0)),
    call!(
        SYS_recvmsg,
        "a socket that is connected to a program that the guest calls"
    ),
    call!(
        SYS_epoll_ctl,
        "a connection begins, or waits for its program; a driver begins or ends"
    ),
    call!(SYS_shutdown, "the guest sends no more, or receives no more"),
    call!(SYS_close, "a connection ends"),
    call!(
        SYS_fcntl,
        "a debug build asks whether the descriptor that it closes was open",
        absent
    ),
];
