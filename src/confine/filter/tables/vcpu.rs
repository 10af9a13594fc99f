use super::Test::Is;
use super::common::REQUEST;
use super::{Call, call, kvm};

pub const CALLS: &[Call] = &[
    call!(SYS_ioctl, "the guest runs", if Is(REQUEST, kvm::RUN)),
    call!(SYS_ioctl, "a device raises its interrupt", if Is(REQUEST, kvm::IRQ_LINE)),
    call!(SYS_ioctl, "has this vCPU been started, or halted?", if Is(REQUEST, kvm::GET_MP_STATE)),
    call!(SYS_ioctl, "does it stand still? Where did it fail?", if Is(REQUEST, kvm::GET_REGS)),
    call!(SYS_ioctl, "where did it fail?", if Is(REQUEST, kvm::GET_SREGS)),
    call!(SYS_ioctl, "where in guest memory is the instruction that failed?", if Is(REQUEST, kvm::TRANSLATE)),
    call!(SYS_ioctl, "can an NMI wake a halted guest?", if Is(REQUEST, kvm::GET_LAPIC)),
    call!(SYS_ioctl, "can an NMI wake a halted guest?", if Is(REQUEST, kvm::GET_IRQCHIP)),
    call!(SYS_ioctl, "the guest is told that it was stopped", if Is(REQUEST, kvm::KVMCLOCK_CTRL)),
    call!(
        SYS_getrandom,
        "the entropy device, and the standard library's hash tables"
    ),
    call!(
        SYS_pread64,
        "--timings: how many exits were there until the guest's mark?"
    ),
    call!(SYS_timer_delete, "the timer that interrupts the first vCPU"),
    call!(SYS_timer_settime, "the same, less often while the guest is idle"),
];

/// What a vCPU's thread does before it narrows its filter.
pub const STARTING: &[Call] = &[call!(
    SYS_timer_create,
    "the timer that interrupts the first vCPU"
)];
