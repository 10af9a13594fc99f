//! Notices that a guest has halted for good: all of its vCPUs execute `hlt` with interrupts off, or never started. That
//! is how Linux ends on a machine that it cannot power off, and after `halt`. KVM does not say so, it only waits.
//!
//! The first vCPU is interrupted once a second ([`super::kick::Ticks`]). If it stands still, it opens a round: it brings
//! the others out of the guest, and each vCPU reports whether it stands still, too. When all did so in two rounds in a
//! row, and none ran in between, there was a moment at which all stood still, and then only an NMI of a device could
//! wake one. Devices of this machine raise none.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::kick::{Kicks, Ticks};
use crate::clock::{coarse, used_by_thread};
use crate::kvm;

/// If a vCPU's thread has used less of the host's processor than this since its last report, the vCPU has not run the guest.
/// Leaving KVM, reporting and going back takes a tenth of this time.
const NOTHING: Duration = Duration::from_micros(200);
/// A tick that comes this long after the one before is late: ticks come once a second.
const LATE: Duration = Duration::from_millis(1500);
/// Reports in a row after which a vCPU counts as halted for good.
const ENOUGH: u32 = 2;

/// What all vCPUs of a machine share.
pub struct HaltWatch {
    /// The number of the round; 0 before the first.
    round: AtomicU64,
    reports: Mutex<Vec<Report>>,
}

/// The last report of a vCPU.
#[derive(Clone, Copy, Default)]
struct Report {
    round: u64,
    /// Rounds in a row in which it stood still.
    still: u32,
    /// How much time of the host's processor its thread had used.
    used: Duration,
}

impl HaltWatch {
    pub fn new(cpus: usize) -> Self {
        Self {
            round: AtomicU64::new(0),
            reports: Mutex::new(vec![Report::default(); cpus]),
        }
    }

    /// Opens a round. The caller reports in it, and interrupts the other vCPUs so that they do, too.
    pub fn open_round(&self) {
        self.round.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the vCPU has not reported yet in the round that is open.
    pub fn awaits(&self, index: usize) -> bool {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let round = self.round.load(Ordering::Relaxed);
        reports.get(index).is_some_and(|report| report.round < round)
    }

    /// Takes the report of a vCPU: whether it stands still, and how much time of the host's processor its thread has used.
    /// Returns whether, with this report, all vCPUs have halted for good.
    pub fn report(&self, index: usize, stands_still: bool, used: Duration) -> bool {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let round = self.round.load(Ordering::Relaxed);
        if let Some(last) = reports.get_mut(index) {
            let stood_still = last.round + 1 == round && used.saturating_sub(last.used) < NOTHING;
            let still = match (stands_still, stood_still) {
                (false, _) => 0,
                (true, false) => 1,
                (true, true) => last.still.saturating_add(1),
            };
            *last = Report { round, still, used };
        }
        reports
            .iter()
            .all(|report| report.round == round && report.still >= ENOUGH)
    }
}

/// A vCPU's part in the watch, held by its thread.
pub struct Watcher<'a> {
    watch: &'a HaltWatch,
    index: usize,
    vcpus: &'a Kicks,
    /// The timer; only the first vCPU has one.
    ticks: Option<Ticks>,
    ticked: Duration,
}

/// Why `KVM_RUN` was interrupted.
#[derive(Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The watch interrupted it, and the guest has not halted for good.
    Ours,
    /// The watch interrupted it, and the guest has halted for good.
    HaltedForGood,
    /// Something else interrupted it.
    Foreign,
}

impl HaltWatch {
    /// The watcher of the vCPU that the calling thread runs. `vcpus` are all vCPUs of the machine.
    pub fn watch<'a>(&'a self, index: usize, vcpus: &'a Kicks) -> Watcher<'a> {
        let ticks = (index == 0).then(Ticks::start).transpose();
        let ticks = ticks.unwrap_or_else(|error| {
            log::warn!("cannot start a timer, so a guest that halts will not end its run: {error}");
            None
        });
        Watcher {
            watch: self,
            index,
            vcpus,
            ticks,
            ticked: coarse(),
        }
    }
}

impl Watcher<'_> {
    /// To be called after `KVM_RUN` was interrupted.
    pub fn interrupted(&mut self, stands_still: impl FnOnce() -> Result<bool, kvm::Error>) -> Interruption {
        let has_ticked = self.ticks.as_ref().is_some_and(Ticks::take);
        if !has_ticked && !self.watch.awaits(self.index) {
            return Interruption::Foreign;
        }
        let stands_still = stands_still().unwrap_or_else(|error| {
            log::debug!("{error}");
            false
        });
        if has_ticked && stands_still {
            self.watch.open_round();
            self.vcpus.kick_others();
        }
        if self.watch.awaits(self.index) && self.watch.report(self.index, stands_still, used_by_thread()) {
            return Interruption::HaltedForGood;
        }
        // A tick is late if the whole process was stopped meanwhile. A stop of less than that is not noticed here, and is too
        // short for a guest's watchdog.
        let now = coarse();
        let since = now.saturating_sub(mem::replace(&mut self.ticked, now));
        match has_ticked && since >= LATE {
            true => Interruption::Foreign,
            false => Interruption::Ours,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: Duration = Duration::from_millis(7);

    /// Reports of one round: for each vCPU whether it stands still, and what it used beyond [`USED`].
    fn round(watch: &HaltWatch, reports: &[(bool, Duration)]) -> bool {
        watch.open_round();
        (0..).zip(reports).any(|(index, &(stands_still, used))| {
            assert!(watch.awaits(index));
            let ended = watch.report(index, stands_still, USED + used);
            assert!(!watch.awaits(index));
            ended
        })
    }

    const STILL: (bool, Duration) = (true, Duration::ZERO);
    const RUNS: (bool, Duration) = (false, Duration::ZERO);

    #[test]
    fn vcpus_that_all_stand_still_from_one_round_to_the_next_have_halted() {
        for cpus in [1, 2, 32] {
            let watch = HaltWatch::new(cpus);
            assert!(!round(&watch, &vec![STILL; cpus]));
            assert!(round(&watch, &vec![STILL; cpus]), "{cpus}");
        }
    }

    #[test]
    fn one_that_runs_or_ran_in_between_keeps_the_run_alive() {
        let watch = HaltWatch::new(2);
        let ran = (true, NOTHING);
        for reports in [
            [STILL, RUNS],
            [STILL, STILL],
            [STILL, ran],
            [RUNS, STILL],
            [STILL, STILL],
        ] {
            assert!(!round(&watch, &reports));
        }
    }

    #[test]
    fn a_report_of_an_older_round_counts_for_nothing() {
        let watch = HaltWatch::new(2);
        assert!(!round(&watch, &[STILL, STILL]));
        watch.open_round();
        assert!(!watch.report(0, true, USED));
        // The other one did not report in time: its next report is its first in a row.
        watch.open_round();
        assert!(!watch.report(0, true, USED));
        assert!(!watch.report(1, true, USED));
        assert!(round(&watch, &[STILL, STILL]));
    }

    #[test]
    fn nothing_is_awaited_before_the_first_round() {
        assert!(!HaltWatch::new(1).awaits(0));
    }
}
