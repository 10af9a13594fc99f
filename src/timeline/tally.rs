//! Counts and times exits by reason, port and address. Each vCPU has counters of its own, so that counting takes no lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reason::{Cost, Reason};
use super::recorder::Recorder;
use crate::kvm::Exit;

/// How many reasons each vCPU counts separately. The limit is needed because a guest can access any number of addresses.
const REASONS_MAX: usize = 256;

/// One vCPU's exits. Dropping it adds them to those of the timeline.
pub struct Tally {
    recorder: Arc<Recorder>,
    vcpu: usize,
    exits: u64,
    costs: HashMap<Reason, Cost>,
}

impl Tally {
    pub(super) fn new(recorder: Arc<Recorder>, vcpu: usize) -> Self {
        Self {
            recorder,
            vcpu,
            exits: 0,
            costs: HashMap::new(),
        }
    }

    /// Counts an exit, has `handle` deal with it, and adds the time that this took.
    pub fn time<'a, T>(&mut self, exit: Exit<'a>, handle: impl FnOnce(Exit<'a>) -> T) -> T {
        let reason = Reason::of(&exit);
        self.exits += 1;
        self.recorder.set_exits(self.vcpu, self.exits);
        let begin = Instant::now();
        let result = handle(exit);
        self.add(reason, begin.elapsed());
        result
    }

    fn add(&mut self, reason: Reason, time: Duration) {
        let is_kept = self.costs.len() < REASONS_MAX || self.costs.contains_key(&reason);
        let reason = if is_kept { reason } else { Reason::Others };
        self.costs.entry(reason).or_default().add(Cost { exits: 1, time });
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.recorder.add_costs(self.costs.drain());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Timeline;

    #[test]
    fn a_guest_that_exits_at_any_number_of_addresses_fills_no_memory() {
        let timeline = Timeline::on(Duration::ZERO);
        let mut tally = timeline.tally(0).unwrap();
        for address in 0..100_000 {
            let mut data = [0; 4];
            tally.time(
                Exit::MmioRead {
                    address,
                    data: &mut data,
                },
                drop,
            );
        }
        drop(tally);
        let costs = timeline.record().unwrap().costs;
        assert_eq!(costs.len(), REASONS_MAX + 1);
        assert_eq!(costs[&Reason::Others].exits, 100_000 - REASONS_MAX as u64);
        assert_eq!(costs.values().map(|cost| cost.exits).sum::<u64>(), 100_000);
    }

    #[test]
    fn exits_of_all_vcpus_come_together() {
        let timeline = Timeline::on(Duration::ZERO);
        for (vcpu, count) in [(0, 3), (1, 4)] {
            let mut tally = timeline.tally(vcpu).unwrap();
            for _ in 0..count {
                tally.time(
                    Exit::PortWrite {
                        port: 0x3f8,
                        size: 1,
                        data: b"x",
                    },
                    drop,
                );
            }
        }
        let costs = timeline.record().unwrap().costs;
        assert_eq!(costs.keys().collect::<Vec<_>>(), [&Reason::PortWrite(0x3f8)]);
        assert_eq!(costs[&Reason::PortWrite(0x3f8)].exits, 7);
    }
}
