use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::LazyLock;

use proptest::prelude::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::tables::{Answer, CONNECTOR, KEEPER, KINDS, START, START_PLAIN, Test, UNPACKER};
use super::*;

/// How many calls each kind of thread may make.
#[path = "sizes_test.rs"]
mod sizes;

/// Higher than all numbers of system calls, now and for some years.
pub(super) const NUMBERS: u32 = 600;
const X86_64: u32 = 0xc000_003e;
const ALLOW: u32 = 0x7fff_0000;
const ABSENT: u32 = 0x0005_0000 | libc::ENOSYS as u32;
const TRAP: u32 = 0x0003_0000;

pub(super) const ALL: [(Kind, &str); 8] = [
    (Kind::Main, "MAIN"),
    (Kind::MainWithRestarts, "MAIN_WITH_RESTARTS"),
    (Kind::Vcpu, "VCPU"),
    (Kind::Disk, "DISK"),
    (Kind::DiskWithRing, "DISK_WITH_RING"),
    (Kind::Vsock, "VSOCK"),
    (Kind::Console, "CONSOLE"),
    (Kind::Control, "CONTROL"),
];

pub(super) fn tables(name: &str) -> &'static tables::Kind {
    KINDS.iter().find(|kind| kind.name == name).unwrap()
}

/// The system calls that the tables allow.
fn allowed(tables: &tables::Kind) -> BTreeSet<u32> {
    let allowed = tables.calls().filter(|call| call.answer != Answer::Absent);
    allowed.map(|call| call.number).collect()
}

/// How many system calls the tables allow.
fn count(tables: &tables::Kind) -> usize {
    allowed(tables).len()
}

/// What the kernel finds in a program (seccomp(2)): `struct seccomp_data`, as words.
fn run(program: &[sock_filter], number: u32, architecture: u32, arguments: [u64; 6]) -> u32 {
    let words: Vec<u32> = [number, architecture, 0, 0]
        .into_iter()
        .chain(
            arguments
                .into_iter()
                .flat_map(|argument| [argument as u32, (argument >> 32) as u32]),
        )
        .collect();
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |so: bool| usize::from(if so { jt } else { jf });
        match code {
            0x20 => accumulator = words[k as usize / 4],
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            _ => panic!("no such instruction: {code:#x}"),
        }
    }
}

/// What the kernel does with several programs: the strictest answer counts.
fn run_all(programs: &[&[sock_filter]], number: u32, arguments: [u64; 6]) -> u32 {
    let answers = programs
        .iter()
        .map(|program| run(program, number, X86_64, arguments));
    // Refusing has a lower number than allowing, and SECCOMP_RET_TRAP a lower one than SECCOMP_RET_ERRNO.
    answers.min().unwrap()
}

/// The tables as the crate seccompiler compiles them, which makes a chain of comparisons of them.
fn by_seccompiler<'c>(calls: impl Iterator<Item = &'c tables::Call>) -> BpfProgram {
    let condition = |test: &Test| {
        let (argument, operator, value) = match *test {
            Test::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
            Test::IsNot(argument, value) => (argument, SeccompCmpOp::Ne, value),
            Test::Masked(argument, mask, value) => (argument, SeccompCmpOp::MaskedEq(mask.into()), value),
            Test::IsOwnProcess(argument) => (argument, SeccompCmpOp::Eq, compiled::OWN_PROCESS),
            Test::IsChild(argument) => (argument, SeccompCmpOp::Eq, compiled::CHILD),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into()).unwrap()
    };
    let mut rules = BTreeMap::<i64, Vec<SeccompRule>>::new();
    let mut unconditional = BTreeSet::new();
    for call in calls {
        let number = call.number.into();
        match call.answer {
            Answer::Absent => continue,
            Answer::Allow => {
                unconditional.insert(number);
            }
            Answer::AllowIf(tests) => {
                let rule = SeccompRule::new(tests.iter().map(condition).collect()).unwrap();
                rules.entry(number).or_default().push(rule);
            }
        }
    }
    rules.extend(unconditional.into_iter().map(|number| (number, Vec::new())));
    SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .unwrap()
    .try_into()
    .unwrap()
}

/// What the crate makes of each table.
static ORACLES: LazyLock<BTreeMap<&str, BpfProgram>> = LazyLock::new(|| {
    let all = [&START, &START_PLAIN, &KEEPER, &CONNECTOR, &UNPACKER]
        .into_iter()
        .chain(KINDS);
    all.map(|tables| (tables.name, by_seccompiler(tables.calls())))
        .collect()
});

/// Values that the tables test arguments for, and others.
fn argument() -> impl Strategy<Value = u64> {
    let calls = || {
        START
            .calls()
            .chain(KEEPER.calls())
            .chain(KINDS.iter().flat_map(tables::Kind::calls))
    };
    let mut values: Vec<u64> = calls()
        .filter_map(|call| match call.answer {
            Answer::AllowIf(tests) => Some(tests),
            _ => None,
        })
        .flatten()
        .map(|test| match *test {
            Test::Is(_, value) | Test::IsNot(_, value) | Test::Masked(_, _, value) => value.into(),
            Test::IsOwnProcess(_) => compiled::OWN_PROCESS.into(),
            Test::IsChild(_) => compiled::CHILD.into(),
        })
        .collect();
    values.extend([0, 1, 3, 4, 7, 0xae02, 0xaeff, 0x5412, u64::MAX]);
    values.sort_unstable();
    values.dedup();
    (
        prop::sample::select(values),
        prop::sample::select(vec![0, 0, 0, 1u64 << 32]),
    )
        .prop_map(|(low, high)| low | high)
}

fn arguments() -> impl Strategy<Value = [u64; 6]> {
    prop::array::uniform6(argument())
}

/// What a table means for a call.
fn meant(tables: &tables::Kind, number: u32, arguments: [u64; 6]) -> u32 {
    let passes = |test: &Test| {
        let is = |argument: u8, value: u32| arguments[usize::from(argument)] as u32 == value;
        match *test {
            Test::Is(argument, value) => is(argument, value),
            Test::IsNot(argument, value) => !is(argument, value),
            Test::Masked(argument, mask, value) => arguments[usize::from(argument)] as u32 & mask == value,
            Test::IsOwnProcess(argument) => is(argument, compiled::OWN_PROCESS),
            Test::IsChild(argument) => is(argument, compiled::CHILD),
        }
    };
    let entries = || tables.calls().filter(|call| call.number == number);
    let is_allowed = |call: &tables::Call| match call.answer {
        Answer::Allow => true,
        Answer::AllowIf(tests) => tests.iter().all(passes),
        Answer::Absent => false,
    };
    match (entries().any(is_allowed), entries().next()) {
        (true, _) => ALLOW,
        (false, Some(_)) if entries().all(|call| call.answer == Answer::Absent) => ABSENT,
        (false, _) => TRAP,
    }
}

/// Arguments of a call that tell all tests in all tables apart, with something in the halves that no test looks at, too.
fn arguments_that_matter(number: u32) -> Vec<[u64; 6]> {
    let kinds = [&START, &START_PLAIN, &KEEPER, &CONNECTOR, &UNPACKER];
    let calls = kinds.into_iter().chain(KINDS).flat_map(tables::Kind::calls);
    let tests = calls
        .filter(|call| call.number == number)
        .filter_map(|call| match call.answer {
            Answer::AllowIf(tests) => Some(tests),
            _ => None,
        })
        .flatten();
    let mut values = BTreeMap::<u8, BTreeSet<u64>>::new();
    for test in tests {
        let (argument, value, other) = match *test {
            Test::Is(argument, value) | Test::IsNot(argument, value) => (argument, value, value ^ 1),
            Test::Masked(argument, mask, value) => (argument, value | !mask, value ^ mask),
            Test::IsOwnProcess(argument) => (argument, compiled::OWN_PROCESS, 1),
            Test::IsChild(argument) => (argument, compiled::CHILD, 1),
        };
        let both = [value, other].map(u64::from);
        let all = both.into_iter().chain(both.map(|value| value | 1 << 32));
        values.entry(argument).or_default().extend(all);
    }
    let untested = vec![[0; 6], [u64::MAX; 6]];
    values.into_iter().fold(untested, |all, (argument, values)| {
        let with = |mut arguments: [u64; 6], value| {
            arguments[usize::from(argument)] = value;
            arguments
        };
        all.into_iter()
            .flat_map(|arguments| values.iter().map(move |&value| with(arguments, value)))
            .collect()
    })
}

#[test]
fn every_program_means_what_its_table_says() {
    let starts = [
        (&START, &compiled::START[..]),
        (&START_PLAIN, &compiled::START_PLAIN[..]),
    ];
    let others = [
        (&KEEPER, &compiled::KEEPER[..]),
        (&CONNECTOR, &compiled::CONNECTOR[..]),
        (&UNPACKER, &compiled::UNPACKER[..]),
    ];
    for number in 0..NUMBERS {
        for arguments in arguments_that_matter(number) {
            for (tables, program) in starts.into_iter().chain(others) {
                let answer = run(program, number, X86_64, arguments);
                let expected = meant(tables, number, arguments);
                assert_eq!(answer, expected, "{}, call {number}, {arguments:x?}", tables.name);
            }
            for ((start, program), (kind, name)) in
                starts.into_iter().flat_map(|start| ALL.map(|kind| (start, kind)))
            {
                let answer = run_all(&[program, kind.program()], number, arguments);
                let expected = meant(start, number, arguments).min(meant(tables(name), number, arguments));
                assert_eq!(
                    answer, expected,
                    "{} and {kind:?}, call {number}, {arguments:x?}",
                    start.name
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn any_arguments_get_seccompilers_answer(
        index in 0..ALL.len(),
        number in prop_oneof![0..NUMBERS, prop::sample::select(vec![16u32, 9, 10, 13, 56, 62, 72, 157, 234, 317])],
        arguments in arguments(),
    ) {
        let (kind, name) = ALL[index];
        let is_in = |tables: &tables::Kind| run(&ORACLES[tables.name], number, X86_64, arguments) == ALLOW;
        prop_assert_eq!(run(&compiled::KEEPER, number, X86_64, arguments) == ALLOW, is_in(&KEEPER));
        for (start, program) in [
            (&START, &compiled::START[..]),
            (&START_PLAIN, &compiled::START_PLAIN[..]),
        ] {
            prop_assert_eq!(run(program, number, X86_64, arguments) == ALLOW, is_in(start));
            let answer = run_all(&[program, kind.program()], number, arguments);
            prop_assert_eq!(answer == ALLOW, is_in(start) && is_in(tables(name)));
        }
    }
}

#[test]
fn calls_of_other_architectures_and_of_x32_are_refused() {
    let inherited = [
        &compiled::START[..],
        &compiled::START_PLAIN,
        &compiled::KEEPER,
        &compiled::CONNECTOR,
        &compiled::UNPACKER,
    ];
    for number in (0..NUMBERS).chain([0x4000_0000, 0x4000_0001, 0x4000_0010, u32::MAX]) {
        for program in inherited {
            // i386.
            assert_eq!(run(program, number, 0x4000_0003, [0; 6]), 0x8000_0000);
        }
        if number >= NUMBERS {
            for program in inherited.into_iter().chain(ALL.map(|(kind, _)| kind.program())) {
                assert_eq!(run(program, number, X86_64, [0; 6]), TRAP);
            }
        }
    }
}

/// How many instructions the kernel walks through with this number when it installs the program, and whether it finds that
/// the call is always allowed (seccomp_is_const_allow in Linux).
fn walk(program: &[sock_filter], number: u32, architecture: u32) -> (usize, bool) {
    let (mut at, mut accumulator) = (0, 0);
    for steps in 1.. {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |so: bool| usize::from(if so { jt } else { jf });
        match (code, k) {
            (0x20, 0) => accumulator = number,
            (0x20, 4) => accumulator = architecture,
            (0x05, _) => at += k as usize,
            (0x15, _) => at += jump(accumulator == k),
            (0x35, _) => at += jump(accumulator >= k),
            (0x06, _) => return (steps, k == ALLOW),
            // An argument.
            _ => return (steps, false),
        }
    }
    panic!("the program has no end")
}

/// The kernel's walks are most of the time for which an installation of a program takes, unless they end early.
#[test]
fn the_kernel_soon_knows_which_calls_it_may_remember() {
    for (program, most) in [(&compiled::START[..], (9, 3)), (&compiled::START_PLAIN, (1, 1))] {
        let sum = |architecture| -> usize {
            let walks = (0..451).map(|number| walk(program, number, architecture).0);
            walks.sum()
        };
        let (native, foreign) = (sum(X86_64), sum(0x4000_0003));
        assert!(
            native <= 451 * most.0 && foreign <= 451 * most.1,
            "{native}, {foreign}"
        );
    }
}

#[test]
fn the_kernel_remembers_the_calls_that_are_made_most() {
    let often = |numbers: &[i64], kinds: &[Kind]| {
        for &number in numbers {
            for program in [&compiled::START[..]]
                .into_iter()
                .chain(kinds.iter().map(|kind| kind.program()))
            {
                assert!(walk(program, number as u32, X86_64).1, "{number}");
            }
        }
    };
    let all = ALL.map(|(kind, _)| kind);
    often(&[libc::SYS_write, libc::SYS_futex, libc::SYS_poll], &all);
    often(&[libc::SYS_read], &[Kind::Main, Kind::Disk, Kind::DiskWithRing]);
    let disk = [
        libc::SYS_preadv,
        libc::SYS_pwritev2,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
    ];
    often(&disk, &[Kind::Disk, Kind::DiskWithRing]);
    often(&[libc::SYS_io_uring_enter], &[Kind::DiskWithRing]);
}

#[test]
fn the_process_that_connects_can_do_nothing_else() {
    let is_allowed = |call: i64, arguments| {
        let answer = run(&compiled::CONNECTOR, call as u32, X86_64, arguments);
        answer == ALLOW
    };
    let socket = |family: libc::c_int| is_allowed(libc::SYS_socket, [family as u64, 1, 0, 0, 0, 0]);
    assert!(socket(libc::AF_UNIX) && is_allowed(libc::SYS_connect, [0; 6]));
    for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_VSOCK] {
        assert!(!socket(family));
    }
    for call in [
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_execve,
        libc::SYS_clone,
        libc::SYS_fork,
        libc::SYS_ptrace,
        libc::SYS_kill,
        libc::SYS_ioctl,
        libc::SYS_rename,
    ] {
        assert!(!is_allowed(call, [0; 6]), "{call}");
    }
    assert_eq!(count(&CONNECTOR), 11);
    let document = include_str!("../../../docs/confinement.md");
    assert!(document.contains("\n11 system calls,"));
}

#[test]
fn a_thread_that_unpacks_can_open_nothing_and_reach_nobody() {
    for call in [
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_sendmsg,
        libc::SYS_execve,
        libc::SYS_clone,
        libc::SYS_unlink,
        libc::SYS_rename,
    ] {
        assert_eq!(
            run(&compiled::UNPACKER, call as u32, X86_64, [0; 6]),
            TRAP,
            "{call}"
        );
    }
    let document = include_str!("../../../docs/confinement.md");
    let line = format!(
        "\n| a thread that unpacks an image's layer | {} |\n",
        count(&UNPACKER)
    );
    assert!(document.contains(&line), "{line}");
}

#[test]
fn a_thread_inherits_what_a_thread_like_it_needs() {
    let covers = |wide: &tables::Kind, name: &str| {
        let numbers: BTreeSet<_> = wide.calls().map(|call| call.number).collect();
        for call in tables(name).calls() {
            assert!(
                numbers.contains(&call.number),
                "{}: {} for {name}",
                wide.name,
                call.name
            );
        }
    };
    KINDS.iter().for_each(|kind| covers(&START, kind.name));
    for name in ["VCPU", "CONSOLE"] {
        covers(&START_PLAIN, name);
    }
    // It starts these when the guest boots again, or when the first line is to be written.
    covers(tables("MAIN_WITH_RESTARTS"), "VCPU");
    for main in ["MAIN", "MAIN_WITH_RESTARTS"] {
        covers(tables(main), "CONSOLE");
    }
}

#[test]
fn every_entry_says_why_and_stands_once() {
    for kind in KINDS {
        let mut seen = BTreeSet::new();
        for call in kind.calls() {
            assert!(call.why.len() > 4, "{}", call.name);
            let tests = match call.answer {
                Answer::AllowIf(tests) => tests,
                _ => &[],
            };
            let is_new = seen.insert((
                call.number,
                tests,
                mem::discriminant(&call.answer) == mem::discriminant(&Answer::Absent),
            ));
            assert!(
                is_new || kind.name.starts_with("MAIN"),
                "{}: {}",
                kind.name,
                call.name
            );
        }
    }
}
