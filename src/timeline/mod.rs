//! Notes where the time of a run goes, for `coracle run --timings`.
//!
//! A [`Timeline`] notes when each [`Phase`] of a run ended, on the host's monotonic clock, and how many exits there had
//! been until then. The code that ends a phase gets the timeline as an argument and calls [`Timeline::mark`]. A timeline
//! that is off only tests an `Option`. The module `timings` shows a person what was noted.

mod memory;
mod phase;
mod reason;
mod record;
mod recorder;
mod tally;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use vm_memory::GuestMemoryMmap;

pub use memory::MemoryUse;
pub use phase::{Lane, Phase};
pub use reason::{Cost, Costs, Reason};
pub use record::{Mark, Record};
pub use tally::Tally;

use crate::devices::sink::Sink;
use crate::kvm::Statistics;
use recorder::Recorder;

/// Notes when the phases of a run ended. A clone adds to the same notes. A timeline that is off notes nothing.
#[derive(Clone, Default)]
pub struct Timeline(Option<Arc<Recorder>>);

impl Timeline {
    pub fn off() -> Self {
        Self(None)
    }

    /// A timeline that begins with the start of the process, at this time of [`monotonic`](crate::clock::monotonic).
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
            Some(recorder) => watch::watch(console, recorder.clone()),
            None => console,
        }
    }

    /// Notes, before the guest starts, what is needed to read KVM's counters and the use of memory later.
    pub fn guest_starts(&self, memory: &GuestMemoryMmap, statistics: impl FnOnce() -> Vec<Statistics>) {
        let Some(recorder) = &self.0 else { return };
        recorder.guest_starts(memory, statistics());
    }

    /// Starts the thread that reads the use of memory. It keeps the filter of the calling thread.
    pub fn start_memory_reader(&self) {
        if let Some(recorder) = &self.0 {
            recorder.start_memory_reader();
        }
    }

    /// Notes the end of the run. Guest memory must still be mapped, because its use is read here.
    pub fn end(&self) {
        self.mark(Phase::Ended);
        let Some(recorder) = &self.0 else { return };
        recorder.read_memory();
    }

    /// What was noted, to be called when the vCPUs have stopped; none if the timeline is off.
    pub fn record(&self) -> Option<Record> {
        self.0.as_ref().map(|recorder| recorder.record())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::recorder::GUEST_MARKS_MAX;
    use super::*;
    use crate::clock::monotonic;

    #[test]
    fn a_timeline_that_is_off_notes_nothing() {
        let timeline = Timeline::off();
        timeline.mark(Phase::GuestEntered);
        timeline.mark_of_guest(1);
        timeline.end();
        assert!(timeline.tally(0).is_none());
        assert!(timeline.record().is_none());
    }

    #[test]
    fn the_first_marks_of_a_guest_are_kept_and_the_others_counted() {
        let timeline = Timeline::on(monotonic());
        for count in 0..1000u32 {
            timeline.mark_of_guest(count as u8);
        }
        timeline.mark(Phase::Ended);
        let record = timeline.record().unwrap();
        assert_eq!(record.marks.len(), GUEST_MARKS_MAX + 1);
        assert_eq!(record.guest_marks_lost, 1000 - GUEST_MARKS_MAX as u64);
    }

    #[test]
    fn what_a_guest_does_while_it_is_stopped_is_no_phase_of_the_run() {
        let timeline = Timeline::on(monotonic());
        timeline.mark(Phase::Ended);
        timeline.mark_of_guest(7);
        let record = timeline.record().unwrap();
        assert_eq!(record.marks.last().unwrap().phase, Phase::Ended);
        assert_eq!(record.guest_marks_lost, 0);
    }

    #[test]
    fn a_watched_console_loses_no_byte_and_counts_them() {
        struct Kept(Mutex<Vec<u8>>);
        impl Sink for Kept {
            fn wait_for_room(&self) {}
            fn release(&self) {}
            fn hold(&self) {}
            fn put(&self, byte: u8) {
                self.0.lock().unwrap().push(byte);
            }
            fn pause(&self) {}
            fn takes_input(&self) {}
        }
        let kept = Arc::new(Kept(Mutex::default()));
        let timeline = Timeline::on(monotonic());
        let console = timeline.watch(kept.clone());
        let output = b"hello\nCoracle guest: Linux\nready\n";
        output.iter().for_each(|&byte| console.put(byte));
        assert_eq!(*kept.0.lock().unwrap(), output);
        let record = timeline.record().unwrap();
        assert_eq!(record.console_bytes, output.len() as u64);
        let names: Vec<_> = record.marks.iter().map(|mark| mark.phase.name()).collect();
        assert_eq!(names, ["console_line", "init_line", "workload_output"]);
    }
}
