use super::Test::Is;
use super::common::REQUEST;
use super::{Call, call, kvm};

/// linux/fcntl.h.
const F_OFD_SETLK: u32 = 37;

pub const CALLS: &[Call] = &[
    // The console, and signals.
    call!(
        SYS_read,
        "what is typed, signals and events; --timings: /proc/self/smaps, which was opened before"
    ),
    call!(SYS_ioctl, "the serial port's interrupt", if Is(REQUEST, kvm::IRQ_LINE)),
    call!(SYS_ioctl, "the power button's interrupt: would the guest get it?", if Is(REQUEST, kvm::GET_IRQCHIP)),
    call!(SYS_ioctl, "how large is the terminal?", if Is(REQUEST, libc::TIOCGWINSZ as u32)),
    call!(
        SYS_restart_syscall,
        "a wait for some time goes on after the process was stopped"
    ),
    // A thread that it starts.
    call!(
        SYS_prctl,
        "no new privileges, once more, before a thread narrows its filter",
        if Is(0, libc::PR_SET_NO_NEW_PRIVS as u32)
    ),
    call!(
        SYS_seccomp,
        "a thread narrows its own filter",
        if Is(0, libc::SECCOMP_SET_MODE_FILTER), Is(1, 0)
    ),
    call!(SYS_fcntl, "a descriptor of stderr for its thread", if Is(1, libc::F_DUPFD_CLOEXEC as u32)),
    // The end of the machine.
    call!(SYS_close, "files and devices"),
    call!(
        SYS_fcntl,
        "a debug build asks whether the descriptor that it closes is open",
        if Is(1, libc::F_GETFD as u32)
    ),
    call!(SYS_timer_delete, "the timer of a vCPU whose thread has ended"),
    call!(
        SYS_pread64,
        "--timings: KVM's counters; a qcow2 image that is closed"
    ),
    call!(
        SYS_prlimit64,
        "which limit kept a thread from being made? Of this process only: another one of the same user could be ended by it",
        if Is(0, 0)
    ),
    call!(
        SYS_getrandom,
        "the standard library's hash tables; where a kernel is moved to"
    ),
];

/// At the end of a machine that has disks.
pub const CLOSING_DISKS: &[Call] = &[
    call!(SYS_fcntl, "a disk's lock is given back", if Is(1, F_OFD_SETLK)),
    call!(SYS_flock, "a disk's lock is given back"),
    call!(SYS_pwrite64, "a qcow2 image that is closed"),
    call!(SYS_fdatasync, "a qcow2 image that is closed"),
    call!(SYS_fallocate, "a qcow2 image that is closed"),
];

/// With `--on-reboot restart` the main thread builds the machine again, of the files that are open.
pub const BUILDING_AGAIN: &[Call] = &[
    call!(SYS_lseek, "the kernel's and the initrd's sizes"),
    call!(SYS_statx, "the kernel's and the initrd's sizes"),
    call!(SYS_eventfd2, "events of the new machine"),
    call!(SYS_ioctl, "the new VM", if Is(REQUEST, kvm::CREATE_VM)),
    call!(SYS_ioctl, "has the host's KVM a timer with deadlines?", if Is(REQUEST, kvm::CHECK_EXTENSION)),
    call!(SYS_ioctl, "which CPUID leaves has the host's KVM?", if Is(REQUEST, kvm::GET_SUPPORTED_CPUID)),
    call!(
        SYS_ioctl,
        "how large is the memory that KVM shares with a vCPU's owner?",
        if Is(REQUEST, kvm::GET_VCPU_MMAP_SIZE)
    ),
    call!(SYS_ioctl, "guest memory", if Is(REQUEST, kvm::SET_USER_MEMORY_REGION)),
    call!(SYS_ioctl, "memory that KVM itself needs", if Is(REQUEST, kvm::SET_TSS_ADDR)),
    call!(SYS_ioctl, "memory that KVM itself needs", if Is(REQUEST, kvm::SET_IDENTITY_MAP_ADDR)),
    call!(SYS_ioctl, "interrupt controllers", if Is(REQUEST, kvm::CREATE_IRQCHIP)),
    call!(SYS_ioctl, "the PIT", if Is(REQUEST, kvm::CREATE_PIT2)),
    call!(SYS_ioctl, "performance counters are taken away", if Is(REQUEST, kvm::ENABLE_CAP)),
    call!(SYS_ioctl, "a vCPU", if Is(REQUEST, kvm::CREATE_VCPU)),
    call!(SYS_ioctl, "a vCPU's features", if Is(REQUEST, kvm::SET_CPUID2)),
    call!(SYS_ioctl, "a vCPU's model-specific registers", if Is(REQUEST, kvm::SET_MSRS)),
    call!(SYS_ioctl, "a vCPU's registers", if Is(REQUEST, kvm::SET_REGS)),
    call!(SYS_ioctl, "a vCPU's special registers", if Is(REQUEST, kvm::SET_SREGS)),
    call!(SYS_ioctl, "a disk's notifications", if Is(REQUEST, kvm::IOEVENTFD)),
    call!(SYS_ioctl, "KVM's counters, for coracle stats", if Is(REQUEST, kvm::GET_STATS_FD)),
    call!(SYS_pread64, "KVM's counters, for coracle stats"),
];
