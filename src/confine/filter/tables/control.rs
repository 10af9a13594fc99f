use super::Test::Is;
use super::common::REQUEST;
use super::{Call, call, kvm};

/// linux/fcntl.h.
const F_OFD_SETLK: u32 = 37;

pub const CALLS: &[Call] = &[
    call!(
        SYS_accept4,
        "another command connects to the control socket, which was made before"
    ),
    call!(SYS_recvfrom, "a request, and what an attached terminal types"),
    call!(
        SYS_sendto,
        "its answer, and what the guest prints, on a connection that was accepted"
    ),
    call!(
        SYS_read,
        "the event that the guest has printed something, or takes input"
    ),
    call!(
        SYS_pread64,
        "KVM's counts of exits, and what the process's mappings take, which were opened before"
    ),
    call!(SYS_close, "a connection"),
    call!(SYS_ioctl, "interrupts of the power button and the serial port", if Is(REQUEST, kvm::IRQ_LINE)),
    call!(
        SYS_fcntl,
        "others are to see in the lock of the guest whether it is paused",
        if Is(1, F_OFD_SETLK)
    ),
    call!(
        SYS_fcntl,
        "a debug build asks whether the descriptor that it closes is open",
        if Is(1, libc::F_GETFD as u32)
    ),
    call!(
        SYS_restart_syscall,
        "a wait goes on after the process was stopped"
    ),
];
