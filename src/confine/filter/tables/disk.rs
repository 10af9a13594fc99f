use super::Test::Is;
use super::common::REQUEST;
use super::{Call, call, kvm};

/// linux/fs.h.
const BLKDISCARD: u32 = 0x1277;

/// Of both engines.
pub const CALLS: &[Call] = &[
    call!(SYS_ioctl, "the disk's interrupt", if Is(REQUEST, kvm::IRQ_LINE)),
    call!(SYS_ioctl, "the guest discards blocks of a block device", if Is(REQUEST, BLKDISCARD)),
    call!(SYS_read, "the driver's notification"),
    call!(SYS_pread64, "the guest reads"),
    call!(SYS_preadv, "the guest reads into several places"),
    call!(SYS_pwrite64, "the guest writes"),
    call!(SYS_pwritev2, "the guest writes from several places, or durably"),
    call!(SYS_fdatasync, "the guest flushes"),
    call!(SYS_fallocate, "the guest discards or zeroes"),
];

/// The engine `sync`: raw images, ephemeral disks, qcow2 images.
pub const WITHOUT_RING: &[Call] = &[
    call!(SYS_statx, "how much space has an ephemeral disk taken up?"),
    call!(
        SYS_lseek,
        "is a range of an ephemeral disk there already? Where does an image end?"
    ),
];

/// The engine `uring`.
pub const WITH_RING: &[Call] = &[
    call!(
        SYS_io_uring_enter,
        "the ring; it takes a disk's operations on the disk's files only"
    ),
    call!(SYS_close, "the ring, when the thread ends"),
    call!(
        SYS_fcntl,
        "a debug build asks whether the descriptor that it closes was open",
        absent
    ),
];

/// What a disk's thread does before it narrows its filter.
pub const STARTING: &[Call] = &[
    call!(SYS_io_uring_setup, "a ring"),
    call!(SYS_io_uring_register, "a ring's files and restrictions"),
];
