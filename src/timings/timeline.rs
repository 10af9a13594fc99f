//! Notes when each phase of a run ended.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::console::Watch;
use super::exits::{Cost, Costs, Reason, Tally};
use super::memory::MemoryUse;
use super::phase::Phase;
use super::report::Report;
use crate::clock::monotonic;
use crate::config::CPUS_MAX;
use crate::devices::serial::Sink;
use crate::kvm::Statistics;

/// How many marks of the guest are kept. The limit is needed because a guest can write any number of them.
const GUEST_MARKS_MAX: usize = 64;

/// Notes when the phases of a run ended. A clone adds to the same notes. A timeline that is off notes nothing.
#[derive(Clone, Default)]
pub struct Timeline(Option<Arc<Recorder>>);

impl Timeline {
    pub fn off() -> Self {
        Self(None)
    }

    /// A timeline that begins with the start of the process, at this time of [`monotonic`].
    pub fn on(process_start: Duration) -> Self {
        Self(Some(Arc::new(Recorder::new(process_start))))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Notes the end of a phase, and writes it to the log.
    pub fn mark(&self, phase: Phase) {
        log::debug!("{}", phase.words());
        if let Some(recorder) = &self.0 {
            recorder.mark(phase);
        }
    }

    /// Notes that the guest wrote this byte to the boot clock.
    pub fn mark_of_guest(&self, value: u8) {
        if let Some(recorder) = &self.0 {
            recorder.mark(Phase::GuestMark(value));
        }
    }

    /// The counters for one vCPU's exits; none if the timeline is off.
    pub fn tally(&self, vcpu: usize) -> Option<Tally> {
        self.0.as_ref().map(|recorder| Tally::new(recorder.clone(), vcpu))
    }

    /// Wraps the console's sink so that lines that end a phase are noted.
    pub fn watch(&self, console: Arc<dyn Sink>) -> Arc<dyn Sink> {
        match &self.0 {
            Some(recorder) => Arc::new(Watch::new(console, recorder.clone())),
            None => console,
        }
    }

    /// Prepares, before the guest starts, what is needed to read KVM's counters and the use of memory later.
    pub fn guest_starts(&self, memory: &GuestMemoryMmap, statistics: impl FnOnce() -> Vec<Statistics>) {
        let Some(recorder) = &self.0 else { return };
        // A machine starts once, so the cell is still empty.
        let _ = recorder.statistics.set(statistics());
        recorder.lock().memory_reader = MemoryReader::start(memory);
    }

    /// Notes the end of the run. Guest memory must still be mapped, because its use is read here.
    pub fn end(&self) {
        self.mark(Phase::Ended);
        let Some(recorder) = &self.0 else { return };
        let reader = recorder.lock().memory_reader.take();
        let memory = reader.and_then(MemoryReader::finish);
        recorder.lock().memory = memory;
    }

    /// The figures of the run, to be called when the vCPUs have stopped; none if the timeline is off.
    pub fn report(&self) -> Option<Report> {
        self.0.as_ref().map(|recorder| recorder.report())
    }
}

/// When a phase ended.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub phase: Phase,
    /// Time since the start of the process.
    pub at: Duration,
    /// Exits to Coracle until then, with the one that is being handled.
    pub exits: u64,
    /// Exits to KVM until then; none before the guest starts, and if KVM has no such counter.
    pub kvm_exits: Option<u64>,
}

#[derive(Default)]
struct State {
    /// In the order of time.
    marks: Vec<Mark>,
    guest_marks: usize,
    guest_marks_lost: u64,
    costs: Costs,
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
    fn new(process_start: Duration) -> Self {
        Self {
            process_start,
            state: Mutex::default(),
            exits: [const { AtomicU64::new(0) }; CPUS_MAX as usize],
            console_bytes: AtomicU64::new(0),
            statistics: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn report(&self) -> Report {
        let state = self.lock();
        Report::new(
            &state.marks,
            state.guest_marks_lost,
            &state.costs,
            self.console_bytes.load(Ordering::Relaxed),
            self.statistics.get().map_or(&[], |all| all),
            state.memory,
        )
    }
}

fn sum_of_exits(all: &[Statistics]) -> Option<u64> {
    let sum = all
        .iter()
        .filter_map(Statistics::exits)
        .reduce(|sum, exits| sum + exits);
    sum.filter(|_| !all.is_empty())
}

/// A thread that reads the use of memory once, while the guest runs: after the workload's first output, or at the end of the
/// run if there was no such output.
struct MemoryReader {
    /// Dropping the sender makes the thread read.
    wait: Option<Sender<()>>,
    thread: JoinHandle<Option<MemoryUse>>,
}

impl MemoryReader {
    fn start(memory: &GuestMemoryMmap) -> Option<Self> {
        let range = |region: &vm_memory::GuestRegionMmap| {
            let start = region.as_ptr() as u64;
            start..start + region.len()
        };
        let guest: Vec<Range<u64>> = memory.iter().map(range).collect();
        let (wait, ready): (Sender<()>, Receiver<()>) = channel();
        let read = move || {
            // Nothing is ever sent: this returns with an error when the sender is dropped.
            let _ = ready.recv();
            MemoryUse::read(&guest)
                .inspect_err(|error| log::debug!("cannot read /proc/self/smaps: {error}"))
                .ok()
        };
        let thread = thread::Builder::new().name("timings".into()).spawn(read).ok()?;
        Some(Self {
            wait: Some(wait),
            thread,
        })
    }

    fn read_now(&mut self) {
        self.wait = None;
    }

    fn finish(mut self) -> Option<MemoryUse> {
        self.read_now();
        self.thread.join().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_that_is_off_notes_nothing() {
        let timeline = Timeline::off();
        timeline.mark(Phase::GuestEntered);
        timeline.mark_of_guest(1);
        timeline.end();
        assert!(timeline.tally(0).is_none());
        assert!(timeline.report().is_none());
    }

    #[test]
    fn the_first_marks_of_a_guest_are_kept_and_the_others_counted() {
        let timeline = Timeline::on(monotonic());
        for count in 0..1000u32 {
            timeline.mark_of_guest(count as u8);
        }
        timeline.mark(Phase::Ended);
        let report = timeline.report().unwrap();
        assert_eq!(report.phases.len(), 1 + GUEST_MARKS_MAX + 1);
        assert_eq!(report.guest_marks_lost, 1000 - GUEST_MARKS_MAX as u64);
    }

    #[test]
    fn what_a_guest_does_while_it_is_stopped_is_no_phase_of_the_run() {
        let timeline = Timeline::on(monotonic());
        timeline.mark(Phase::Ended);
        timeline.mark_of_guest(7);
        let report = timeline.report().unwrap();
        assert_eq!(report.phases.last().unwrap().phase, "end");
        assert_eq!(report.guest_marks_lost, 0);
    }

    #[test]
    fn a_watched_console_loses_no_byte_and_counts_them() {
        struct Kept(Mutex<Vec<u8>>);
        impl Sink for Kept {
            fn wait_for_room(&self) {}
            fn release(&self) {}
            fn put(&self, byte: u8) {
                self.0.lock().unwrap().push(byte);
            }
            fn pause(&self) {}
        }
        let kept = Arc::new(Kept(Mutex::default()));
        let timeline = Timeline::on(monotonic());
        let console = timeline.watch(kept.clone());
        let output = b"hello\nCoracle guest: Linux\nready\n";
        output.iter().for_each(|&byte| console.put(byte));
        assert_eq!(*kept.0.lock().unwrap(), output);
        let report = timeline.report().unwrap();
        assert_eq!(report.console.bytes, output.len() as u64);
        let names: Vec<_> = report.phases.iter().map(|row| row.phase.as_str()).collect();
        assert_eq!(
            names,
            ["process_start", "console_line", "init_line", "workload_output"]
        );
    }
}
