//! Children that restrict themselves and make system calls.

use std::arch::asm;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::tables::{Answer, CONNECTOR, KEEPER, START_PLAIN, Test, UNPACKER};
use super::tests::{ALL, NUMBERS, tables};
use super::*;

/// What is installed one after the other, with the tables of the strictest, and a name.
type Installed = (Vec<&'static [sock_filter]>, &'static tables::Kind);

/// Each kind of thread, and each program that stands alone.
fn all() -> impl Iterator<Item = Installed> {
    let alone = [
        (&compiled::START_PLAIN[..], &START_PLAIN),
        (&compiled::KEEPER[..], &KEEPER),
        (&compiled::CONNECTOR[..], &CONNECTOR),
        (&compiled::UNPACKER[..], &UNPACKER),
    ];
    threads().chain(alone.map(|(program, tables)| (vec![program], tables)))
}

fn threads() -> impl Iterator<Item = Installed> {
    ALL.into_iter()
        .map(|(kind, name)| (in_thread(kind), tables(name)))
}

fn in_thread(kind: Kind) -> Vec<&'static [sock_filter]> {
    vec![&compiled::START, kind.program()]
}

/// Linux asks no filter about these, because its own probes in programs make them. They do nothing for anybody else.
const URETPROBE: u32 = 335;
const UPROBE: u32 = 336;

/// The status of a child that restricts itself, and then runs this. It may call nothing but the allocator, which fork(2)
/// leaves usable, and system calls. Calls with arguments that point nowhere do no harm, whether they are refused or not, and
/// a call that must not be made in vain is in no table, which is what these tests are about.
fn restricted(programs: &[&[sock_filter]], on_refusal: libc::sighandler_t, run: impl FnOnce()) -> i32 {
    // SAFETY: the child calls what is said above.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // Nobody is interested in a core of it.
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: as above.
        unsafe {
            // Another test may need to be the only one that has its file open.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            libc::signal(libc::SIGSYS, on_refusal);
            if programs.iter().any(|program| install(program, None).is_err()) {
                libc::_exit(3);
            }
        }
        run();
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the pointer is to a variable that outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    let is_installed = libc::WIFSIGNALED(status) || libc::WEXITSTATUS(status) != 3;
    assert!(is_installed, "no filter could be installed");
    status
}

/// Makes a call in a child of [`restricted`].
fn call(number: u32, arguments: [u64; 6]) {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: as is said there.
    unsafe {
        if i64::from(number) == libc::SYS_rt_sigreturn {
            // It reads what to go on with from the stack, and finds none here, whatever is on this one.
            asm!("mov rsp, 8", "syscall", in("rax") u64::from(number), options(noreturn));
        }
        libc::syscall(number.into(), a, b, c, d, e, f);
    }
}

/// The signal that ends a child which restricts itself and makes a system call. None if the call returned.
fn fate(programs: &[&[sock_filter]], number: u32, arguments: [u64; 6]) -> Option<i32> {
    let status = restricted(programs, libc::SIG_DFL, || call(number, arguments));
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

/// How many calls a child was refused.
static REFUSED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_refused(_: i32) {
    REFUSED.fetch_add(1, Relaxed);
}

/// Whether each of these calls is refused to one child, which survives the SIGSYS that a refused call brings.
fn refuse(programs: &[&[sock_filter]], calls: &[(u32, [u64; 6])]) -> bool {
    let handler = count_refused as extern "C" fn(i32) as libc::sighandler_t;
    let status = restricted(programs, handler, || {
        for (made, &(number, arguments)) in (1..).zip(calls) {
            call(number, arguments);
            if REFUSED.load(Relaxed) != made {
                // SAFETY: it touches no memory.
                unsafe { libc::_exit(1) };
            }
        }
    });
    status == 0
}

/// Arguments that pass all of these tests. The others are invalid for every call.
fn passing(tests: &[Test]) -> [u64; 6] {
    let mut arguments = [u64::MAX; 6];
    for test in tests {
        match *test {
            Test::Is(argument, value) | Test::Masked(argument, _, value) => {
                arguments[usize::from(argument)] = value.into()
            }
            Test::IsNot(argument, value) => arguments[usize::from(argument)] = u64::from(!value),
            // It is the child's own.
            Test::IsOwnProcess(_) | Test::IsChild(_) => (),
        }
    }
    arguments
}

/// This makes the calls: each number in each kind of thread. A child for each is needed where no handler may return, and to
/// find the one that was not refused.
#[test]
fn every_call_that_a_table_does_not_allow_kills() {
    for (programs, tables) in all() {
        let allowed: BTreeSet<_> = tables
            .calls()
            .filter(|call| !matches!(call.answer, Answer::AllowIf(_)))
            .map(|call| call.number)
            .collect();
        let exempt = |number| number == URETPROBE || number == UPROBE;
        // Arguments with which no call is allowed that is allowed with some.
        let wrong = |number: u32| match i64::from(number) {
            libc::SYS_rt_sigaction => [libc::SIGSYS as u64; 6],
            _ => [u64::MAX; 6],
        };
        let calls: Vec<_> = (0..NUMBERS)
            .filter(|number| !allowed.contains(number) && !exempt(*number))
            .map(|number| (number, wrong(number)))
            .collect();
        assert!(calls.len() > 500, "{}: {} calls", tables.name, calls.len());
        let may_return = allowed.contains(&(libc::SYS_rt_sigreturn as u32));
        if may_return && refuse(&programs, &calls) {
            continue;
        }
        for (number, arguments) in calls {
            let fate = fate(&programs, number, arguments);
            assert_eq!(fate, Some(libc::SIGSYS), "{}, call {number}", tables.name);
        }
        assert!(
            !may_return,
            "{}: one child is not refused what many are",
            tables.name
        );
    }
}

#[test]
fn every_call_that_a_table_allows_is_carried_out() {
    for (programs, tables) in all() {
        for call in tables.calls() {
            let arguments = match call.answer {
                Answer::AllowIf([.., Test::IsOwnProcess(_) | Test::IsChild(_)]) => continue,
                Answer::AllowIf(tests) => passing(tests),
                // This is also what a debug build asks of fcntl(2).
                Answer::Absent => passing(&[Test::Is(1, libc::F_GETFD as u32)]),
                Answer::Allow => [u64::MAX; 6],
            };
            let fate = fate(&programs, call.number, arguments);
            // A handler that returns without a signal ends in a bad address.
            let expected = (call.name == "SYS_rt_sigreturn").then_some(libc::SIGSEGV);
            assert_eq!(fate, expected, "{}, {}: {}", tables.name, call.name, call.why);
        }
    }
}

#[test]
fn calls_with_other_arguments_kill() {
    const CREATE_VM: u64 = 0xae01;
    const TIOCSTI: u64 = 0x5412;
    let any = u64::MAX;
    let executable = u64::from((libc::PROT_READ | libc::PROT_EXEC) as u32);
    for (programs, tables) in threads() {
        for (call, arguments) in [
            (libc::SYS_ioctl, [any, TIOCSTI, any, any, any, any]),
            (libc::SYS_mmap, [0, 4096, executable, 0x22, any, 0]),
            (libc::SYS_mprotect, [0, 4096, executable, any, any, any]),
            // Signals for another process.
            (libc::SYS_tgkill, [1, 1, 0, any, any, any]),
            // A limit of another process; a filter for all threads.
            (libc::SYS_prlimit64, [1, libc::RLIMIT_CPU.into(), 0, 0, any, any]),
            (
                libc::SYS_seccomp,
                [
                    libc::SECCOMP_SET_MODE_FILTER.into(),
                    libc::SECCOMP_FILTER_FLAG_TSYNC,
                    0,
                    any,
                    any,
                    any,
                ],
            ),
            // A handler for SIGSYS, a process, a namespace.
            (libc::SYS_rt_sigaction, [libc::SIGSYS as u64, 0, 0, 8, any, any]),
            (libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
            (
                libc::SYS_clone,
                [0x3d_0f00 | libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0],
            ),
            (libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, any]),
        ] {
            let fate = fate(&programs, call as u32, arguments);
            assert_eq!(
                fate,
                Some(libc::SIGSYS),
                "{}, call {call}, {arguments:x?}",
                tables.name
            );
        }
    }
    for kind in [
        Kind::Vcpu,
        Kind::Disk,
        Kind::DiskWithRing,
        Kind::Vsock,
        Kind::Console,
        Kind::Control,
        Kind::Main,
    ] {
        let fate = fate(
            &in_thread(kind),
            libc::SYS_ioctl as u32,
            [any, CREATE_VM, any, any, any, any],
        );
        assert_eq!(fate, Some(libc::SIGSYS), "{kind:?}");
    }
}

#[test]
fn a_thread_that_is_restricted_can_send_signals_to_its_own_process_only() {
    // The number of the process is not known before.
    // SAFETY: as in `fate`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as in `fate`. The signal 0 is none.
        unsafe {
            let own = libc::getpid();
            if install(&compiled::START, None).is_err() || install(Kind::Vcpu.program(), None).is_err() {
                libc::_exit(3);
            }
            libc::_exit(libc::syscall(libc::SYS_tgkill, own, own, 0) as i32);
        }
    }
    let mut status = 0;
    // SAFETY: the pointer is to a variable that outlives the call.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "{status:#x}"
    );
}
