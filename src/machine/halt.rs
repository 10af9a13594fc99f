//! Notices that a guest has halted for good: all of its vCPUs execute `hlt` with interrupts off, or never started. That
//! is how Linux ends on a machine that it cannot power off, and after `halt`. KVM does not say so, it only waits.
//!
//! The first vCPU is interrupted once a second ([`Ticks`]), and once a minute as long as it only waits for interrupts, so that an
//! idle guest costs the host nothing. When its interrupts are off it opens a round: it brings the
//! others out of the guest, and each vCPU reports where it stands. When all stood still in two rounds in a row, at the
//! same instruction and with the same registers, none is left that could wake another. The second round comes soon after
//! the first, so that nobody waits for long at the end of a guest. A vCPU to which the guest has a device send NMIs does
//! not stand still.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::kick::{Kicks, Ticks};
use crate::clock::coarse;
use crate::kvm::{self, Registers, Standing};

/// Between two ticks.
const TICK: Duration = Duration::from_secs(1);
/// From a tick at which the first vCPU stood still to the next one. Only an NMI could wake it.
const SECOND_TICK: Duration = Duration::from_millis(100);
/// Between two ticks while the first vCPU waits for an interrupt that it can take.
const IDLE_TICK: Duration = Duration::from_secs(60);
/// A tick that comes so much too late is late: the process was stopped meanwhile.
const LATE_TICK: Duration = Duration::from_millis(500);
/// A report that comes this long after its round was opened is late, too.
const LATE_REPORT: Duration = Duration::from_millis(500);
/// Reports in a row after which a vCPU counts as halted for good.
const ENOUGH: u32 = 2;

/// What all vCPUs of a machine share.
pub struct HaltWatch(Mutex<State>);

struct State {
    /// The number of the round; 0 before the first.
    round: u64,
    /// When it was opened.
    opened: Duration,
    reports: Vec<Report>,
}

/// The last report of a vCPU.
#[derive(Clone, Copy, Default)]
struct Report {
    round: u64,
    /// Rounds in a row in which it stood still at the same place.
    still: u32,
    registers: Registers,
}

impl HaltWatch {
    pub fn new(cpus: usize) -> Self {
        Self(Mutex::new(State {
            round: 0,
            opened: Duration::ZERO,
            reports: vec![Report::default(); cpus],
        }))
    }

    /// The watcher of the vCPU that the calling thread runs. `vcpus` are all vCPUs of the machine.
    pub fn watch<'a>(&'a self, index: usize, vcpus: &'a Kicks) -> Watcher<'a> {
        let ticks = (index == 0).then(|| Ticks::start(TICK)).transpose();
        let ticks = ticks.unwrap_or_else(|error| {
            log::warn!("cannot start a timer, so a guest that halts will not end its run: {error}");
            None
        });
        Watcher {
            watch: self,
            index,
            vcpus,
            ticks,
            interval: TICK,
            ticked: coarse(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_round(&self, now: Duration) {
        let mut state = self.lock();
        state.round += 1;
        state.opened = now;
    }

    /// When the round was opened in which the vCPU has not reported yet, if there is one.
    fn awaits(&self, index: usize) -> Option<Duration> {
        let state = self.lock();
        let report = state.reports.get(index)?;
        (report.round < state.round).then_some(state.opened)
    }

    /// Takes the report of a vCPU, none if KVM does not say where it stands. Returns whether, with this report, all vCPUs
    /// have halted for good.
    fn report(&self, index: usize, standing: Option<&Standing>) -> bool {
        let mut state = self.lock();
        let State { round, reports, .. } = &mut *state;
        let round = *round;
        if let Some(last) = reports.get_mut(index) {
            let registers = standing.map(|standing| standing.registers).unwrap_or_default();
            // Some versions of KVM wake a vCPU again and again for an interrupt that it cannot take. Each time it executes
            // the same `hlt` once more. So a vCPU that waited in the last round need not wait at this moment.
            let is_where_it_was = last.round + 1 == round && last.still > 0 && last.registers == registers;
            let still = match standing {
                Some(_) if is_where_it_was => last.still.saturating_add(1),
                Some(standing) if standing.waits => 1,
                _ => 0,
            };
            *last = Report {
                round,
                still,
                registers,
            };
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
    /// Between two ticks at the moment.
    interval: Duration,
    /// When there was a tick last, or when the interval was changed.
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

impl Watcher<'_> {
    /// To be called after another exit of the vCPU: a guest that halts for good has usually said so just before.
    pub fn exited(&mut self) {
        self.tick_each(TICK);
    }

    fn tick_each(&mut self, interval: Duration) {
        if self.interval == interval {
            return;
        }
        match self.ticks.as_ref().map(|ticks| ticks.set(interval)) {
            Some(Ok(())) => (self.interval, self.ticked) = (interval, coarse()),
            Some(Err(error)) => log::debug!("cannot change the timer of the first vCPU: {error}"),
            None => (),
        }
    }

    /// To be called after `KVM_RUN` was interrupted. `standing` asks KVM where the vCPU is.
    pub fn interrupted(&mut self, standing: impl FnOnce() -> Result<Standing, kvm::Error>) -> Interruption {
        let has_ticked = self.ticks.as_ref().is_some_and(Ticks::take);
        let awaited = self.watch.awaits(self.index);
        let now = coarse();
        let is_late = match (has_ticked, awaited) {
            // How long a process was stopped in so long a time nobody knows.
            (true, _) if self.interval == IDLE_TICK => {
                self.ticked = now;
                true
            }
            (true, _) => now.saturating_sub(mem::replace(&mut self.ticked, now)) >= self.interval + LATE_TICK,
            (false, Some(opened)) => now.saturating_sub(opened) >= LATE_REPORT,
            (false, None) => return Interruption::Foreign,
        };
        let standing = standing().inspect_err(|error| log::debug!("{error}")).ok();
        if has_ticked {
            self.tick_each(match &standing {
                Some(standing) if standing.is_idle => IDLE_TICK,
                Some(standing) if standing.waits && self.interval == TICK => SECOND_TICK,
                _ => TICK,
            });
        }
        let may_have_halted = standing
            .as_ref()
            .is_some_and(|standing| !standing.is_interruptible);
        // No round after a stop of the process: the other vCPUs were interrupted by the stop, and must not take that for
        // the watch's doing.
        let opens = has_ticked && may_have_halted && !is_late;
        if opens {
            log::trace!("interrupts of the first vCPU are off: looking whether all vCPUs have halted");
            self.watch.open_round(now);
            self.vcpus.kick_others();
        }
        if (opens || awaited.is_some()) && self.watch.report(self.index, standing.as_ref()) {
            return Interruption::HaltedForGood;
        }
        // A shorter stop that ends with a tick or a report is not noticed, and is too short for a guest's watchdog.
        match is_late {
            true => Interruption::Foreign,
            false => Interruption::Ours,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the instruction `rip`; whether it waits there.
    fn at(rip: u64, waits: bool) -> Standing {
        Standing {
            waits,
            is_idle: false,
            is_interruptible: false,
            registers: Registers {
                rip,
                ..Default::default()
            },
        }
    }

    /// One round.
    fn round(watch: &HaltWatch, reports: &[Standing]) -> bool {
        watch.open_round(Duration::ZERO);
        (0..).zip(reports).any(|(index, standing)| {
            assert!(watch.awaits(index).is_some());
            let ended = watch.report(index, Some(standing));
            assert!(watch.awaits(index).is_none());
            ended
        })
    }

    #[test]
    fn vcpus_that_all_stand_still_from_one_round_to_the_next_have_halted() {
        for cpus in [1, 2, 32] {
            let watch = HaltWatch::new(cpus);
            assert!(!round(&watch, &vec![at(7, true); cpus]));
            assert!(round(&watch, &vec![at(7, true); cpus]), "{cpus}");
        }
    }

    #[test]
    fn one_that_kvm_wakes_for_nothing_stands_still_too() {
        let watch = HaltWatch::new(2);
        assert!(!round(&watch, &[at(7, true), at(8, true)]));
        assert!(round(&watch, &[at(7, false), at(8, true)]));
    }

    #[test]
    fn one_that_runs_or_moved_in_between_keeps_the_run_alive() {
        let watch = HaltWatch::new(2);
        for other in [at(8, false), at(8, true), at(9, true), at(8, true), at(10, false)] {
            assert!(!round(&watch, &[at(7, true), other]), "{other:?}");
        }
        // A loop without `hlt` is work, also when it never moves.
        let watch = HaltWatch::new(1);
        for _ in 0..5 {
            assert!(!round(&watch, &[at(7, false)]));
        }
    }

    #[test]
    fn a_report_of_an_older_round_counts_for_nothing() {
        let watch = HaltWatch::new(2);
        let still = at(7, true);
        assert!(!round(&watch, &[still, still]));
        watch.open_round(Duration::ZERO);
        assert!(!watch.report(0, Some(&still)));
        // The other one did not report in time: its next report is its first in a row.
        watch.open_round(Duration::ZERO);
        assert!(!watch.report(0, Some(&still)));
        assert!(!watch.report(1, Some(&still)));
        assert!(round(&watch, &[still, still]));
    }

    #[test]
    fn what_kvm_does_not_tell_is_no_halt_and_nothing_is_awaited_before_the_first_round() {
        let watch = HaltWatch::new(1);
        assert!(watch.awaits(0).is_none());
        assert!(!round(&watch, &[at(7, true)]));
        watch.open_round(Duration::ZERO);
        assert!(!watch.report(0, None));
        assert!(!round(&watch, &[at(7, false)]));
    }
}
