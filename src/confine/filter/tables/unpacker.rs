use super::common::NOT_EXECUTABLE;
use super::{Call, call};

pub const CALLS: &[Call] = &[
    call!(SYS_pread64, "the layer's blob, which is open"),
    call!(SYS_pwrite64, "the layer's tar, which is open"),
    call!(
        SYS_read,
        "the tars of which a root file system is made, which are open"
    ),
    call!(SYS_lseek, "past what is in their files"),
    call!(SYS_getrandom, "the keys of hash tables"),
    call!(SYS_ftruncate, "the tar's length"),
    call!(SYS_fdatasync, "the tar is on the disk before it has its name"),
    call!(SYS_close, "both, when the thread ends"),
    call!(SYS_mprotect, "the allocator, for a heap that grows", if NOT_EXECUTABLE),
    call!(
        SYS_fcntl,
        "a debug build asks whether the descriptor that it closes was open",
        absent
    ),
];
