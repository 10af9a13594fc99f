//! What was noted of a run, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use super::memory::MemoryUse;
use super::phase::Phase;
use super::reason::Costs;

/// What was noted of a run.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// In the order of time.
    pub marks: Vec<Mark>,
    /// How many marks of the guest were not kept.
    pub guest_marks_lost: u64,
    pub costs: Costs,
    pub console_bytes: u64,
    /// KVM's own counters, summed over all vCPUs, without those that are 0; none if this KVM has no counters.
    pub kvm: Option<BTreeMap<String, u64>>,
    pub memory: Option<MemoryUse>,
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
