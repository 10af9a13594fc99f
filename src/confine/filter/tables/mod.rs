//! Which system calls each kind of thread may make. The build script compiles these tables (build/programs.rs), so the program
//! itself carries only the result.

/// What every thread needs: memory, locks, and to end.
mod common;
/// The process that connects to programs that a guest calls.
mod connector;
/// The writers of the console's output and of the guest's log, and the writer of Coracle's own lines.
mod console;
/// The thread that answers requests at the control socket.
mod control;
/// A disk's I/O threads.
mod disk;
/// The parent that keeps the terminal.
mod keeper;
/// KVM's requests to ioctl(2).
mod kvm;
/// The main thread once the guest runs, and the threads beside it.
mod main;
/// The process before the guest runs: everything that any thread needs.
mod start;
/// Threads that start others: main, for the one that ends the machine beside it and for Coracle's own lines, and that of the control
/// socket, for pauses.
mod starting;
/// A thread that unpacks a layer of an image.
mod unpacker;
/// A vCPU's thread once it runs the guest.
mod vcpu;
/// The socket device's thread.
mod vsock;

/// One system call that may be made.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: u32,
    /// As in the crate libc: with SYS_ in front.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the tests"))]
    pub name: &'static str,
    pub answer: Answer,
    /// What it is for.
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and for the tests"))]
    pub why: &'static str,
}

/// What becomes of a call. A call that has several entries is carried out if one of them says so; those that are made most often
/// come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is carried out.
    Allow,
    /// It is carried out if its arguments pass all of these tests.
    AllowIf(&'static [Test]),
    /// It fails with ENOSYS, as on a kernel that does not have it.
    Absent,
}

/// A test of the argument with this index. Only the lower half is looked at: the kernel itself uses no more of these arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// It has this value in the bits of the mask, which comes first.
    Masked(u8, u32, u32),
    /// It has this value.
    Is(u8, u32),
    /// It has another value.
    IsNot(u8, u32),
    /// It is this process's number.
    IsOwnProcess(u8),
    /// It is the number of the child whose terminal this process keeps.
    IsChild(u8),
}

/// A kind of thread, and what it may do.
pub struct Kind {
    /// The name of its constant in the compiled programs.
    pub name: &'static str,
    pub tables: &'static [&'static [Call]],
}

/// Calls that are made so often that the kernel is to remember that they are allowed, beside those with low numbers
/// (build/programs.rs).
#[cfg_attr(test, expect(dead_code, reason = "for the build script"))]
pub const OFTEN: &[u32] = &[
    libc::SYS_futex as u32,
    libc::SYS_preadv as u32,
    libc::SYS_pwritev2 as u32,
    libc::SYS_io_uring_enter as u32,
];

/// The filter that all threads inherit. It allows what any of the others allows, and what a start needs.
pub const START: Kind = Kind {
    name: "START",
    tables: &[
        start::CALLS,
        common::CALLS,
        main::CALLS,
        main::CLOSING_DISKS,
        starting::CALLS,
        main::BUILDING_AGAIN,
        vcpu::CALLS,
        vcpu::STARTING,
        disk::CALLS,
        disk::STARTING,
        disk::WITHOUT_RING,
        disk::WITH_RING,
        vsock::CALLS,
        console::CALLS,
        control::CALLS,
    ],
};

/// The filter that all threads inherit when the machine has neither disks nor a socket device nor a name. The others below narrow
/// this one, too.
pub const START_PLAIN: Kind = Kind {
    name: "START_PLAIN",
    tables: &[
        start::CALLS,
        common::CALLS,
        main::CALLS,
        starting::CALLS,
        main::BUILDING_AGAIN,
        vcpu::CALLS,
        vcpu::STARTING,
        console::CALLS,
    ],
};

/// The parent that keeps the terminal. It has nothing to do with the others.
pub const KEEPER: Kind = Kind {
    name: "KEEPER",
    tables: &[keeper::CALLS, common::CALLS],
};

/// The filter of the process that connects to programs that a guest calls. It inherits none.
pub const CONNECTOR: Kind = Kind {
    name: "CONNECTOR",
    tables: &[connector::CALLS],
};

/// The filter of a thread that unpacks a layer of an image, in a process that has none.
pub const UNPACKER: Kind = Kind {
    name: "UNPACKER",
    tables: &[unpacker::CALLS, common::CALLS],
};

/// The kinds of threads that narrow what they inherit.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "MAIN",
        tables: &[main::CALLS, main::CLOSING_DISKS, starting::CALLS, common::CALLS],
    },
    Kind {
        name: "MAIN_WITH_RESTARTS",
        tables: &[
            main::CALLS,
            main::CLOSING_DISKS,
            starting::CALLS,
            main::BUILDING_AGAIN,
            vcpu::CALLS,
            vcpu::STARTING,
            common::CALLS,
        ],
    },
    Kind {
        name: "VCPU",
        tables: &[vcpu::CALLS, common::CALLS],
    },
    Kind {
        name: "DISK",
        tables: &[disk::CALLS, disk::WITHOUT_RING, common::CALLS],
    },
    Kind {
        name: "DISK_WITH_RING",
        tables: &[disk::CALLS, disk::WITH_RING, common::CALLS],
    },
    Kind {
        name: "VSOCK",
        tables: &[vsock::CALLS, common::CALLS],
    },
    Kind {
        name: "CONSOLE",
        tables: &[console::CALLS, common::CALLS],
    },
    Kind {
        name: "CONTROL",
        tables: &[control::CALLS, starting::CALLS, common::CALLS],
    },
];

impl Kind {
    pub fn calls(&self) -> impl Iterator<Item = &'static Call> {
        self.tables.iter().copied().flatten()
    }
}

/// The entry of a system call, by its constant in libc.
macro_rules! call {
    ($name:ident, $why:literal) => {
        call!($name, $why, super::Answer::Allow)
    };
    ($name:ident, $why:literal, if $($test:expr),+) => {
        call!($name, $why, super::Answer::AllowIf(&[$($test),+]))
    };
    ($name:ident, $why:literal, absent) => {
        call!($name, $why, super::Answer::Absent)
    };
    ($name:ident, $why:literal, $answer:expr) => {
        super::Call {
            number: libc::$name as u32,
            name: stringify!($name),
            answer: $answer,
            why: $why,
        }
    };
}
use call;
