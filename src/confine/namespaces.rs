use std::ffi::CStr;
use std::io;

use super::{Layer, State};

/// Where the empty root is mounted for a moment. Every host has this directory.
const PLACE: &CStr = c"/proc";

/// What was tried when the host refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Unshare,
    Mount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    step: Step,
    errno: i32,
}

impl Refusal {
    /// With the error of the system call before.
    fn at(step: Step) -> Self {
        Self {
            step,
            errno: io::Error::last_os_error().raw_os_error().unwrap_or_default(),
        }
    }
}

/// Moves the process, which has no thread but the calling one, to a user namespace and a mount namespace of its own, and
/// there to an empty file system.
pub fn enter() -> Layer {
    // A filter that was there before, such as systemd's SystemCallFilter=, may kill the process that makes such a call. So a
    // child tries it first.
    // SAFETY: plain numbers.
    let is_filtered =
        unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) } == libc::SECCOMP_MODE_FILTER as libc::c_int;
    if is_filtered {
        let tried = outlook();
        if tried.missing().is_some() {
            return tried;
        }
    }
    layer(leave_the_hosts_files())
}

/// Returns the layer that [`enter`] would return. Tries it in a child process.
pub fn outlook() -> Layer {
    // SAFETY: the child makes system calls only and ends, so it needs no lock that another thread may hold.
    let tried = unsafe {
        // Where the parent ignores this signal, the kernel forgets a child at its end, and waitpid(2) finds none.
        let before = libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let child = libc::fork();
        if child == 0 {
            libc::_exit(exit_status(leave_the_hosts_files()));
        }
        let mut status = 0;
        let tried = match child == -1 || libc::waitpid(child, &mut status, 0) == -1 {
            true => Err(Refusal::at(Step::Unshare)),
            false => result_of(status),
        };
        libc::signal(libc::SIGCHLD, before);
        tried
    };
    layer(tried)
}

/// Bit of the child's exit status: the step that failed is the second one. The errors of these calls are below it.
const AT_MOUNT: i32 = 0x80;

/// The status with which the child exits.
fn exit_status(tried: Result<(), Refusal>) -> i32 {
    match tried {
        Ok(()) => 0,
        Err(Refusal { step, errno }) => match step {
            Step::Unshare => errno,
            Step::Mount => errno | AT_MOUNT,
        },
    }
}

/// What the child tried, by its status (wait(2)).
fn result_of(status: i32) -> Result<(), Refusal> {
    match libc::WEXITSTATUS(status) {
        // A container's filter may kill the process that makes such a call.
        _ if !libc::WIFEXITED(status) => Err(Refusal {
            step: Step::Unshare,
            errno: libc::EPERM,
        }),
        0 => Ok(()),
        errno if errno & AT_MOUNT == 0 => Err(Refusal {
            step: Step::Unshare,
            errno,
        }),
        errno => Err(Refusal {
            step: Step::Mount,
            errno: errno & !AT_MOUNT,
        }),
    }
}

fn layer(result: Result<(), Refusal>) -> Layer {
    Layer {
        name: "namespaces",
        state: match result {
            Ok(()) => {
                State::Enforced("no file of the host has a name, and no capability is one of the host's")
            }
            Err(Refusal { step, errno }) => {
                let error = io::Error::from_raw_os_error(errno);
                State::Missing(match step {
                    Step::Unshare => format!(
                        "this host permits no user namespace: {error} (a container's filter, or the sysctls \
                         user.max_user_namespaces and kernel.unprivileged_userns_clone)"
                    ),
                    Step::Mount => format!(
                        "this host permits no mounts in a user namespace: {error} (on Ubuntu the sysctl \
                         kernel.apparmor_restrict_unprivileged_userns)"
                    ),
                })
            }
        },
    }
}

/// The user namespace gives the capabilities that the mounts need; they are capabilities of that namespace alone, and
/// [`drop_all`](super::privileges::drop_all) takes them away. User and group keep their numbers on the host, and have none
/// in the namespace.
fn leave_the_hosts_files() -> Result<(), Refusal> {
    let check = |step, result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(Refusal::at(step)),
    };
    let place = PLACE.as_ptr();
    // SAFETY: all strings end with NUL.
    unsafe {
        check(
            Step::Unshare,
            libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
        )?;
        // In a mount namespace of another user namespace nothing is shared with the host (mount_namespaces(7)): what is
        // mounted and unmounted here is not seen there.
        let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let tmpfs = c"tmpfs".as_ptr();
        check(
            Step::Mount,
            libc::mount(tmpfs, place, tmpfs, flags, c"mode=555".as_ptr().cast()),
        )?;
        check(Step::Mount, libc::chdir(place))?;
        // With the same directory twice, the old root is stacked on the new one, and unmounted from there (pivot_root(2)).
        let here = c".".as_ptr();
        check(
            Step::Mount,
            libc::syscall(libc::SYS_pivot_root, here, here) as libc::c_int,
        )?;
        check(Step::Mount, libc::umount2(here, libc::MNT_DETACH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_learns_what_the_child_met() {
        let refused = |step, errno| Err(Refusal { step, errno });
        let at_unshare = refused(Step::Unshare, libc::ENOSPC);
        let at_mount = refused(Step::Mount, libc::EACCES);
        for met in [Ok(()), at_unshare, at_mount] {
            let exited = exit_status(met) << 8;
            assert_eq!(result_of(exited), met);
        }
        let killed = libc::SIGSYS;
        assert_eq!(result_of(killed), refused(Step::Unshare, libc::EPERM));
    }
}
