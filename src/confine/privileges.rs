use std::{io, ptr};

use super::{Layer, State};

/// linux/capability.h: version 3 has two sets of 32 capabilities.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes the process undumpable (prctl(2), PR_SET_DUMPABLE): it leaves no core dump, not even by a program that
/// /proc/sys/kernel/core_pattern names, and other processes of the same user cannot trace it or read its memory.
pub fn forbid_dumps() -> Layer {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: setrlimit reads one rlimit.
    let limited = check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) });
    // Also where the limit was refused.
    // SAFETY: plain numbers.
    let undumpable = check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) });
    match undumpable.and(limited) {
        Ok(()) => no_dumps(),
        Err(error) => Layer {
            state: State::Missing(error.to_string()),
            ..no_dumps()
        },
    }
}

/// That layer in force.
pub fn no_dumps() -> Layer {
    Layer {
        name: "dumps",
        state: State::Enforced("no core dumps, and no other process of this user can look into this one"),
    }
}

/// Makes the process, which has no thread but the calling one, one of this user and this group, without any other group.
pub fn become_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: setgroups reads no group when their number is 0; the other calls take plain numbers.
    unsafe {
        check(libc::setgroups(0, ptr::null()))?;
        check(libc::setresgid(group, group, group))?;
        check(libc::setresuid(user, user, user))
    }
}

/// Takes all privileges from the calling thread, for good.
pub fn drop_all() -> Layer {
    let capabilities = drop_capabilities();
    // Also where those were not dropped.
    let dropped = forbid_new_privileges().and(capabilities);
    Layer {
        name: "privileges",
        state: match dropped {
            Ok(()) => State::Enforced("no capabilities, and no program that is started gets any"),
            Err(error) => State::Missing(error.to_string()),
        },
    }
}

/// Empties the thread's own sets (capabilities(7)). The ambient set is then empty, too, because it is a part of the
/// inheritable one.
fn drop_capabilities() -> io::Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let none = [CapabilitySets::default(); 2];
    // SAFETY: capset reads a header and, with this version, two sets.
    match unsafe { libc::syscall(libc::SYS_capset, ptr::from_ref(&header), none.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// From now on a program that is started gets no privileges beyond those of the thread: not by its file (set-user-ID, file
/// capabilities), nor because the user is root. So the bounding set need not be emptied, which takes a call for each
/// capability and 0.07 virtual milliseconds.
fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
