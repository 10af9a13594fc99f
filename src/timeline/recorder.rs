//! The notes of a run, to which its threads add.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use vm_memory::GuestMemoryMmap;

use super::memory::{self, MemoryReader, MemoryUse, SMAPS};
use super::phase::Phase;
use super::reason::{Cost, Costs, Reason};
use super::record::{Mark, Record};
use crate::clock::monotonic;
use crate::config::CPUS_MAX;
use crate::kvm::Statistics;

/// How many marks of the guest are kept. The limit is needed because a guest can write any number of them.
pub const GUEST_MARKS_MAX: usize = 64;

#[derive(Default)]
struct State {
    /// In the order of time.
    marks: Vec<Mark>,
    guest_marks: usize,
    guest_marks_lost: u64,
    costs: Costs,
    /// Opened at the start, for the reader of the use of memory.
    smaps: Option<File>,
    /// Where guest memory is mapped.
    guest: Vec<Range<u64>>,
    memory_reader: Option<MemoryReader>,
    memory: Option<MemoryUse>,
}

pub struct Recorder {
    process_start: Duration,
    state: Mutex<State>,
    /// Exits of each vCPU. Only the vCPU itself writes its number.
    exits: [AtomicU64; CPUS_MAX as usize],
    console_bytes: AtomicU64,
    /// KVM's counters of each vCPU; empty if this KVM has none.
    statistics: OnceLock<Vec<Statistics>>,
}

impl Recorder {
    pub fn new(process_start: Duration) -> Self {
        Self {
            process_start,
            state: Mutex::new(State {
                smaps: File::open(SMAPS)
                    .inspect_err(|error| log::debug!("cannot open {SMAPS}: {error}"))
                    .ok(),
                ..State::default()
            }),
            exits: [const { AtomicU64::new(0) }; CPUS_MAX as usize],
            console_bytes: AtomicU64::new(0),
            statistics: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is needed to read KVM's counters and the use of memory later.
    pub fn guest_starts(&self, memory: &GuestMemoryMmap, statistics: Vec<Statistics>) {
        // A machine starts once, so the cell is still empty.
        let _ = self.statistics.set(statistics);
        self.lock().guest = memory::ranges(memory);
    }

    /// Starts the thread that will read the use of memory.
    pub fn start_memory_reader(&self) {
        let mut state = self.lock();
        let Some(smaps) = state.smaps.take() else { return };
        state.memory_reader = MemoryReader::start(smaps, state.guest.clone());
        let is_due = state.marks.iter().any(|mark| mark.phase == Phase::WorkloadOutput);
        if is_due && let Some(reader) = &mut state.memory_reader {
            reader.read_now();
        }
    }

    /// Waits until the use of memory has been read.
    pub fn read_memory(&self) {
        let reader = self.lock().memory_reader.take();
        let memory = reader.and_then(MemoryReader::finish);
        self.lock().memory = memory;
    }

    pub fn mark(&self, phase: Phase) {
        let mut state = self.lock();
        // After the end of the run, vCPUs execute until they are stopped: what they do then belongs to no phase.
        if state.marks.last().is_some_and(|last| last.phase == Phase::Ended) {
            return;
        }
        if let Phase::GuestMark(_) = phase {
            if state.guest_marks == GUEST_MARKS_MAX {
                state.guest_marks_lost += 1;
                return;
            }
            state.guest_marks += 1;
        }
        let at = monotonic().saturating_sub(self.process_start);
        let exits = self.exits.iter().map(|exits| exits.load(Ordering::Relaxed)).sum();
        let kvm_exits = self.statistics.get().and_then(|all| sum_of_exits(all));
        state.marks.push(Mark {
            phase,
            at,
            exits,
            kvm_exits,
        });
        if phase == Phase::WorkloadOutput
            && let Some(reader) = &mut state.memory_reader
        {
            reader.read_now();
        }
    }

    /// Stores how many exits this vCPU has had so far.
    pub fn set_exits(&self, vcpu: usize, exits: u64) {
        self.exits[vcpu % self.exits.len()].store(exits, Ordering::Relaxed);
    }

    pub fn add_costs(&self, costs: impl Iterator<Item = (Reason, Cost)>) {
        let mut state = self.lock();
        for (reason, cost) in costs {
            state.costs.entry(reason).or_default().add(cost);
        }
    }

    pub fn count_console_byte(&self) {
        self.console_bytes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn record(&self) -> Record {
        let state = self.lock();
        Record {
            marks: state.marks.clone(),
            guest_marks_lost: state.guest_marks_lost,
            costs: state.costs.clone(),
            console_bytes: self.console_bytes.load(Ordering::Relaxed),
            kvm: self.statistics.get().and_then(|all| counters(all)),
            memory: state.memory,
        }
    }
}

fn sum_of_exits(all: &[Statistics]) -> Option<u64> {
    let sum = all
        .iter()
        .filter_map(Statistics::exits)
        .reduce(|sum, exits| sum + exits);
    sum.filter(|_| !all.is_empty())
}

fn counters(statistics: &[Statistics]) -> Option<BTreeMap<String, u64>> {
    let mut sums = BTreeMap::new();
    for (name, value) in statistics.iter().flat_map(Statistics::all) {
        *sums.entry(name.to_owned()).or_insert(0) += value;
    }
    sums.retain(|_, value| *value > 0);
    (!sums.is_empty()).then_some(sums)
}
