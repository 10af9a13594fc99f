//! Compiles tables into seccomp's programs (linux/seccomp.h; a program is of classic BPF, linux/filter.h).
//!
//! The kernel takes time for each instruction of a program when it is installed, and walks through the program with each
//! number of a system call. So a program is a tree, in which few comparisons lead to the answer for a number, and the walk
//! ends early for most numbers. A chain of comparisons, as the crate seccompiler makes it, takes eight times as long
//! (docs/confinement.md has the figures).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::tables::{Answer, Call, Test};

/// `struct sock_filter`: code, jt, jf, k.
pub type Instruction = (u16, u8, u8, u32);

/// The value that stands for this process's number until the program is installed.
pub const OWN_PROCESS: u32 = 0xffff_fff1;
/// The same for the child whose terminal this process keeps.
pub const CHILD: u32 = 0xffff_fff2;

/// linux/audit.h.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// The offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Codes of instructions.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_NOT_BELOW: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Results.
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const ALLOW: u32 = 0x7fff_0000;

/// No system call has this number or a higher one. Those of the x32 ABI are higher.
const NUMBERS: u32 = 1024;

/// When a program is installed, the kernel walks through it with each number, to find those for which it need not run the
/// program later: the walk has to reach [`ALLOW`] before it comes to the load of an argument. The numbers below this one are
/// the calls that programs make most. For the others, but those in `often`, the walk would take longer than the few calls
/// of a boot, so an argument is loaded before their tree.
const CACHED: u32 = 32;

/// What an instruction costs when a program is installed, in nanoseconds on the deterministic clock.
const INSTRUCTION_COST: u32 = 1400;
/// What each comparison on a call's way costs when the call is made.
const COMPARISON_COST: u32 = 1;

/// How often, roughly, a boot makes a call with this number, if it makes it at all. Each entry into the guest is an ioctl.
fn frequency(number: u32) -> u32 {
    match i64::from(number) {
        libc::SYS_ioctl => 500,
        _ => 10,
    }
}

/// What a program does with a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Trap,
    Allow,
    Absent,
    /// Carried out if all tests of one of these lists pass.
    AllowIf(Vec<Vec<Test>>),
}

type Outcomes = BTreeMap<u32, Outcome>;

/// A program that a process starts with, which its threads inherit. It refuses the system calls of other architectures, too. The
/// kernel is to remember the numbers below [`CACHED`] and those in `often`; without `often` it remembers none, and installs the
/// program sooner.
pub fn inherited<'c>(calls: impl Iterator<Item = &'c Call>, often: Option<&[u32]>) -> Vec<Instruction> {
    let outcomes = outcomes(calls);
    let Some(often) = often else {
        return soon_installed(&outcomes);
    };
    let allowed_often =
        |number: &u32| often.contains(number) && outcomes.get(number) == Some(&Outcome::Allow);
    let mut program = Assembler::default();
    program.tree(&ranges(&outcomes, CACHED..NUMBERS, |number| {
        !allowed_often(&number)
    }));
    program.load(NUMBER);
    // This ends the kernel's walk. The program needs no argument here.
    program.load(ARGUMENTS);
    for &number in often.iter().filter(|number| allowed_often(number)) {
        let otherwise = program.here();
        let allow = program.leaf(&Outcome::Allow);
        program.jump(JUMP_IF_EQUAL, number, allow, otherwise);
    }
    let high = program.here();
    program.tree(&ranges(&outcomes, 0..CACHED, |_| true));
    let low = program.here();
    program.jump(JUMP_IF_NOT_BELOW, CACHED, high, low);
    program.load(NUMBER);
    program.of_this_architecture();
    program.finish()
}

/// The same for a process that makes few calls. All walks end at the first instruction, which loads an argument.
fn soon_installed(outcomes: &Outcomes) -> Vec<Instruction> {
    let mut program = Assembler::default();
    program.tree(&ranges(outcomes, 0..NUMBERS, |_| true));
    program.load(NUMBER);
    program.of_this_architecture();
    program.load(ARGUMENTS);
    program.finish()
}

/// The program that a thread installs in addition to the one of `inherited`. What that one refuses anyway is not looked at, nor
/// are arguments that it tests in the same way.
pub fn narrowed<'c>(
    calls: impl Iterator<Item = &'c Call>,
    inherited: impl Iterator<Item = &'c Call>,
) -> Vec<Instruction> {
    let before = outcomes(inherited);
    let mut narrowed = outcomes(calls);
    for (number, outcome) in &mut narrowed {
        if before.get(number) == Some(outcome) {
            *outcome = Outcome::Allow;
        }
    }
    let last = before.keys().max().copied().unwrap_or_default();
    let matters = |number: u32| number > last || before.contains_key(&number);
    let mut program = Assembler::default();
    program.tree(&ranges(&narrowed, 0..NUMBERS, matters));
    program.load(NUMBER);
    program.finish()
}

/// What is to become of each number in the tables.
fn outcomes<'c>(calls: impl Iterator<Item = &'c Call>) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for call in calls {
        let outcome = outcomes.entry(call.number).or_insert(Outcome::Absent);
        match (&mut *outcome, call.answer) {
            (Outcome::Allow, _) | (_, Answer::Absent) => (),
            (_, Answer::Allow) => *outcome = Outcome::Allow,
            (Outcome::AllowIf(lists), Answer::AllowIf(tests)) => lists.push(tests.to_vec()),
            (_, Answer::AllowIf(tests)) => *outcome = Outcome::AllowIf(vec![tests.to_vec()]),
        }
    }
    outcomes.values_mut().for_each(simplify);
    outcomes
}

/// Leaves lists out that a list with one test covers, and puts the short ones first.
fn simplify(outcome: &mut Outcome) {
    let Outcome::AllowIf(lists) = outcome else { return };
    let mut seen = BTreeSet::new();
    lists.retain(|tests| seen.insert(tests.clone()));
    lists.sort_by_key(Vec::len);
    let covers = |wide: &[Test], tests: &[Test]| match wide {
        [wide] => tests.iter().any(|test| wide == test || wide.covers(*test)),
        _ => false,
    };
    let all = lists.clone();
    lists.retain(|tests| !all.iter().any(|wide| wide != tests && covers(wide, tests)));
}

impl Test {
    fn argument(self) -> u8 {
        match self {
            Self::Is(argument, _)
            | Self::IsNot(argument, _)
            | Self::Masked(argument, _, _)
            | Self::IsOwnProcess(argument)
            | Self::IsChild(argument) => argument,
        }
    }

    /// Whether every value that passes `other` passes this one.
    fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Masked(argument, mask, value), Self::Is(other, is)) => {
                argument == other && is & mask == value
            }
            (Self::IsNot(argument, value), Self::Is(other, is)) => argument == other && is != value,
            _ => false,
        }
    }
}

/// Consecutive numbers with the same outcome.
#[derive(Debug, Clone)]
struct Numbers {
    start: u32,
    end: u32,
    outcome: Outcome,
    /// Whether only the first one matters.
    is_single: bool,
    /// How often a boot makes calls with these numbers.
    frequency: u32,
}

/// What is to become of the numbers in `all`, in order; of the last one and all behind it the same. Numbers that do not `matter`
/// have whatever outcome makes the ranges few.
fn ranges(outcomes: &Outcomes, all: Range<u32>, matters: impl Fn(u32) -> bool) -> Vec<Numbers> {
    let mut ranges: Vec<Numbers> = Vec::new();
    for number in all.filter(|&number| matters(number)) {
        let outcome = outcomes.get(&number).cloned().unwrap_or(Outcome::Trap);
        let frequency = match outcome {
            // It is made once at most.
            Outcome::Trap => 0,
            _ => frequency(number),
        };
        if let Some(before) = ranges.last_mut() {
            before.end = number;
            if before.outcome == outcome {
                before.end = number + 1;
                before.is_single = false;
                before.frequency += frequency;
                continue;
            }
        }
        ranges.push(Numbers {
            start: number,
            end: number + 1,
            outcome,
            is_single: true,
            frequency,
        });
    }
    ranges
}

/// Puts a program together from its end to its start, because jumps go forward only.
#[derive(Default)]
struct Assembler {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    leaves: BTreeMap<Outcome, usize>,
}

impl Assembler {
    /// The place of the instruction that was pushed last, counted from the end.
    fn here(&self) -> usize {
        self.reversed.len() - 1
    }

    fn push(&mut self, code: u16, if_so: u8, if_not: u8, value: u32) {
        self.reversed.push((code, if_so, if_not, value));
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, 0, 0, offset);
    }

    /// Refuses the system calls of other architectures, and goes on at the last instruction with those of this one.
    fn of_this_architecture(&mut self) {
        let number = self.here();
        self.push(RETURN, 0, 0, KILL_PROCESS);
        let kill = self.here();
        self.jump(JUMP_IF_EQUAL, AUDIT_ARCH_X86_64, number, kill);
        self.load(ARCHITECTURE);
    }

    fn jump(&mut self, code: u16, value: u32, if_so: usize, if_not: usize) {
        let distance = |to: usize| {
            u8::try_from(self.reversed.len() - to - 1).expect("a program has at most 256 instructions")
        };
        let (if_so, if_not) = (distance(if_so), distance(if_not));
        self.push(code, if_so, if_not, value);
    }

    fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    /// The place of what does `outcome`.
    fn leaf(&mut self, outcome: &Outcome) -> usize {
        if let Some(&place) = self.leaves.get(outcome) {
            return place;
        }
        match outcome {
            Outcome::Trap => self.push(RETURN, 0, 0, TRAP),
            Outcome::Allow => self.push(RETURN, 0, 0, ALLOW),
            Outcome::Absent => self.push(RETURN, 0, 0, ERRNO | libc::ENOSYS as u32),
            Outcome::AllowIf(lists) => self.tests(lists),
        }
        let place = self.here();
        self.leaves.insert(outcome.clone(), place);
        place
    }

    fn tests(&mut self, lists: &[Vec<Test>]) {
        let allow = self.leaf(&Outcome::Allow);
        let mut otherwise = self.leaf(&Outcome::Trap);
        for (index, tests) in lists.iter().enumerate().rev() {
            // The argument that the list before has loaded, when it did not pass.
            let loaded = match index.checked_sub(1).map(|before| lists[before].as_slice()) {
                Some([Test::Masked(..)]) | None => None,
                Some([test]) => Some(test.argument()),
                Some(_) => None,
            };
            let mut passed = allow;
            for (position, test) in tests.iter().enumerate().rev() {
                match *test {
                    Test::Is(_, value) => self.jump(JUMP_IF_EQUAL, value, passed, otherwise),
                    Test::IsNot(_, value) => self.jump(JUMP_IF_EQUAL, value, otherwise, passed),
                    Test::IsOwnProcess(_) => self.jump(JUMP_IF_EQUAL, OWN_PROCESS, passed, otherwise),
                    Test::IsChild(_) => self.jump(JUMP_IF_EQUAL, CHILD, passed, otherwise),
                    Test::Masked(_, mask, value) => {
                        self.jump(JUMP_IF_EQUAL, value, passed, otherwise);
                        self.push(AND, 0, 0, mask);
                    }
                }
                if position > 0 || loaded != Some(test.argument()) {
                    self.load(ARGUMENTS + 8 * u32::from(test.argument()));
                }
                passed = self.here();
            }
            otherwise = passed;
        }
    }

    /// A tree that finds the outcome of the number that is loaded. It begins at the last instruction that was pushed.
    fn tree(&mut self, ranges: &[Numbers]) {
        for range in ranges {
            self.leaf(&range.outcome);
        }
        let mut best = BTreeMap::new();
        let root = self.branch(ranges, 0, ranges.len(), &mut best);
        if root != self.here() {
            self.push(JUMP, 0, 0, (self.reversed.len() - root - 1) as u32);
        }
    }

    fn branch(
        &mut self,
        ranges: &[Numbers],
        from: usize,
        to: usize,
        best: &mut BTreeMap<(usize, usize), (u32, Split)>,
    ) -> usize {
        match cheapest(ranges, from, to, best).1 {
            Split::None => self.leaf(&ranges[from].outcome),
            Split::Singles => {
                let (others, singles) = singles(&ranges[from..to]).expect("that is how it was divided");
                let mut otherwise = self.leaf(others);
                for single in singles.into_iter().rev() {
                    let leaf = self.leaf(&single.outcome);
                    self.jump(JUMP_IF_EQUAL, single.start, leaf, otherwise);
                    otherwise = self.here();
                }
                otherwise
            }
            Split::At(index) => {
                let high = self.branch(ranges, index, to, best);
                let low = self.branch(ranges, from, index, best);
                self.jump(JUMP_IF_NOT_BELOW, ranges[index].start, high, low);
                self.here()
            }
        }
    }
}

/// The outcome that all of `ranges` but single numbers have, and those. None if they have more than one.
fn singles(ranges: &[Numbers]) -> Option<(&Outcome, Vec<&Numbers>)> {
    [ranges.first()?, ranges.last()?]
        .into_iter()
        .find_map(|Numbers { outcome, .. }| {
            let others: Vec<_> = ranges.iter().filter(|range| range.outcome != *outcome).collect();
            let are_single = others.iter().all(|range| range.is_single);
            are_single.then_some((outcome, others))
        })
}

/// How a tree divides some ranges.
#[derive(Debug, Clone, Copy)]
enum Split {
    /// All have the same outcome.
    None,
    /// All but some single numbers have the same outcome.
    Singles,
    /// From this range on and before.
    At(usize),
}

/// The cheapest way to divide the ranges, and its cost.
fn cheapest(
    ranges: &[Numbers],
    from: usize,
    to: usize,
    best: &mut BTreeMap<(usize, usize), (u32, Split)>,
) -> (u32, Split) {
    if let Some(&known) = best.get(&(from, to)) {
        return known;
    }
    let part = &ranges[from..to];
    let comparison = COMPARISON_COST * part.iter().map(|range| range.frequency).sum::<u32>();
    let chain = singles(part).map(|(_, singles)| {
        let count = singles.len() as u32;
        (count * (INSTRUCTION_COST + comparison), Split::Singles)
    });
    let found = match chain {
        Some((0, _)) => (0, Split::None),
        chain => {
            let divided = (from + 1..to).map(|at| {
                let parts = cheapest(ranges, from, at, best).0 + cheapest(ranges, at, to, best).0;
                (INSTRUCTION_COST + comparison + parts, Split::At(at))
            });
            let cheapest = divided.chain(chain).min_by_key(|(cost, _)| *cost);
            cheapest.expect("several outcomes can be divided")
        }
    };
    best.insert((from, to), found);
    found
}
