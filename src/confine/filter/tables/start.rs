use super::Test::Masked;
use super::common::REQUEST;
use super::{Call, call, kvm};

/// Beside what any thread needs later.
pub const CALLS: &[Call] = &[
    call!(
        SYS_ioctl,
        "the machine; each thread narrows this to its own requests",
        if Masked(REQUEST, kvm::TYPE, kvm::KVM)
    ),
    call!(SYS_signalfd4, "the signals that end a run"),
];
