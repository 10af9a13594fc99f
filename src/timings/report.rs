//! The figures of a run. The JSON holds them as they are; the table and the picture are made of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::timeline::{Cost, Costs, Lane, Mark, MemoryUse, Phase, Reason, Record};

/// The figures of a run. Its JSON keys never change their meaning; docs/timings.md lists them.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub phases: Vec<Row>,
    pub guest_marks_lost: u64,
    pub exits: Exits,
    pub console: Console,
    /// KVM's own counters, summed over all vCPUs, without those that are 0.
    pub kvm: Option<BTreeMap<String, u64>>,
    pub memory: Option<MemoryUse>,
}

/// A phase.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub phase: String,
    #[serde(skip)]
    pub kind: Option<Phase>,
    /// The moment that ends it, in words.
    pub words: String,
    pub began_ms: f64,
    pub ended_ms: f64,
    pub took_ms: f64,
    /// Exits to Coracle in this phase.
    pub exits: u64,
    /// Exits to KVM in this phase.
    pub kvm_exits: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Exits {
    pub count: u64,
    pub took_ms: f64,
    /// The most frequent first.
    pub by_reason: Vec<ExitsOf>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExitsOf {
    #[serde(skip)]
    pub kind: Reason,
    pub reason: &'static str,
    /// A port, or a guest address.
    pub address: Option<String>,
    pub device: Option<String>,
    pub count: u64,
    pub took_ms: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Console {
    pub bytes: u64,
    /// Exits for all registers of the serial port.
    pub exits: u64,
    pub took_ms: f64,
    /// `took_ms` in percent of the time from the first guest instruction to the end.
    pub run_percent: f64,
}

impl Report {
    pub fn new(record: &Record) -> Self {
        let Record { marks, costs, .. } = record;
        let sum = |costs: &mut dyn Iterator<Item = &Cost>| {
            costs.fold(Cost::default(), |mut sum, cost| {
                sum.add(*cost);
                sum
            })
        };
        let all = sum(&mut costs.values());
        let console = sum(&mut costs
            .iter()
            .filter(|(reason, _)| reason.is_console())
            .map(|(_, cost)| cost));
        let entered = marks.iter().find(|mark| mark.phase == Phase::GuestEntered);
        let run = entered
            .zip(marks.last())
            .map_or(Duration::ZERO, |(entered, last)| last.at - entered.at);
        Self {
            phases: rows(marks),
            guest_marks_lost: record.guest_marks_lost,
            exits: Exits {
                count: all.exits,
                took_ms: milliseconds(all.time),
                by_reason: by_reason(costs),
            },
            console: Console {
                bytes: record.console_bytes,
                exits: console.exits,
                took_ms: milliseconds(console.time),
                run_percent: match run {
                    Duration::ZERO => 0.0,
                    run => console.time.as_secs_f64() / run.as_secs_f64() * 100.0,
                },
            },
            kvm: record.kvm.clone(),
            memory: record.memory,
        }
    }

    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl Row {
    pub fn lane(&self) -> Lane {
        self.kind.map_or(Lane::Main, Phase::lane)
    }
}

fn rows(marks: &[Mark]) -> Vec<Row> {
    let start = Row {
        phase: "process_start".into(),
        kind: None,
        words: "process start".into(),
        began_ms: 0.0,
        ended_ms: 0.0,
        took_ms: 0.0,
        exits: 0,
        kvm_exits: None,
    };
    let row = |(index, mark): (usize, &Mark)| {
        let before = before(marks, index);
        let began = before.map_or(Duration::ZERO, |before| before.at);
        Row {
            phase: mark.phase.name().into(),
            kind: Some(mark.phase),
            words: mark.phase.words().into(),
            began_ms: milliseconds(began),
            ended_ms: milliseconds(mark.at),
            took_ms: milliseconds(mark.at - began),
            exits: mark.exits.saturating_sub(before.map_or(0, |before| before.exits)),
            kvm_exits: mark
                .kvm_exits
                .map(|exits| exits.saturating_sub(before.and_then(|before| before.kvm_exits).unwrap_or(0))),
        }
    };
    [start]
        .into_iter()
        .chain(marks.iter().enumerate().map(row))
        .collect()
}

/// The mark that began the phase which the mark at `index` ends.
fn before(marks: &[Mark], index: usize) -> Option<&Mark> {
    let lane = marks[index].phase.lane();
    let precedes = |mark: &&Mark| match lane {
        Lane::Main => true,
        lane => [lane, Lane::Main].contains(&mark.phase.lane()),
    };
    marks[..index].iter().rev().find(precedes)
}

fn by_reason(costs: &Costs) -> Vec<ExitsOf> {
    let mut all: Vec<ExitsOf> = costs
        .iter()
        .map(|(reason, cost)| ExitsOf {
            kind: *reason,
            reason: reason.name(),
            address: reason.address().map(|address| format!("{address:#x}")),
            device: reason.device(),
            count: cost.exits,
            took_ms: milliseconds(cost.time),
        })
        .collect();
    all.sort_by_key(|exits| std::cmp::Reverse(exits.count));
    all
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

/// Figures of a boot of the built-in guest, for tests.
#[cfg(test)]
pub fn example() -> Report {
    use Phase::*;
    let mark = |(phase, microseconds, exits): (Phase, u64, u64)| Mark {
        phase,
        at: Duration::from_micros(microseconds),
        exits,
        kvm_exits: (phase.lane() == Lane::Main && exits > 0).then_some(exits * 10),
    };
    let marks = [
        (ArgumentsUnderstood, 110, 0),
        (KvmOpened, 130, 0),
        (MemoryMapped, 150, 0),
        (ProcessorKnown, 180, 0),
        (VmCreated, 320, 0),
        (KernelLoaded, 330, 0),
        (BootTablesWritten, 350, 0),
        (MemoryRegistered, 370, 0),
        (InterruptControllersCreated, 520, 0),
        (VcpusCreated, 600, 0),
        (VcpusSetUp, 640, 0),
        (DevicesAttached, 700, 0),
        (ConsoleReady, 760, 0),
        (GuestEntered, 850, 0),
        (GuestMark(1), 1_400, 1),
        (GuestMark(2), 9_800, 20),
        (GuestMark(3), 10_100, 21),
        (InitLine, 10_600, 60),
        (GuestMark(4), 10_650, 61),
        (WorkloadOutput, 12_000, 62),
        (Ended, 20_000, 400),
    ]
    .map(mark);
    let cost = |exits, microseconds| Cost {
        exits,
        time: Duration::from_micros(microseconds),
    };
    let costs = Costs::from([
        (Reason::PortWrite(0x3f8), cost(330, 500)),
        (Reason::PortRead(0x3fd), cost(60, 60)),
        (Reason::PortWrite(0x5f0), cost(4, 10)),
        (Reason::MmioRead(0xd000_0070), cost(6, 30)),
    ]);
    let memory = MemoryUse {
        guest: 13 << 20,
        guest_private: 5 << 20,
        coracle_private: 420 << 10,
    };
    Report::new(&Record {
        marks: marks.into(),
        costs,
        console_bytes: 330,
        memory: Some(memory),
        ..Record::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_beside_each_other_are_measured_in_their_own_lane() {
        let report = example();
        let of = |name: &str| report.phases.iter().find(|row| row.phase == name).unwrap();
        // Both begin when the two lanes do.
        assert_eq!(
            (of("vm_created").began_ms, of("vm_created").ended_ms),
            (0.15, 0.32)
        );
        assert_eq!(of("processor_known").began_ms, 0.15);
        assert_eq!(of("kernel_loaded").began_ms, 0.18);
        assert_eq!(of("memory_registered").began_ms, 0.32);
        // The next one begins when the last of both has ended.
        assert_eq!(of("vcpus_set_up").began_ms, 0.6);
    }

    #[test]
    fn the_phases_of_the_main_lane_are_the_whole_run_and_have_all_exits() {
        let report = example();
        let guest = report
            .phases
            .iter()
            .skip_while(|row| row.kind != Some(Phase::GuestEntered));
        assert_eq!(guest.clone().map(|row| row.exits).sum::<u64>(), 400);
        let took: f64 = guest.skip(1).map(|row| row.took_ms).sum();
        assert!((took - 19.15).abs() < 1e-9, "{took}");
    }

    #[test]
    fn the_console_costs_what_all_registers_of_its_port_do() {
        let Console {
            bytes,
            exits,
            took_ms,
            run_percent,
        } = example().console;
        assert_eq!((bytes, exits, took_ms), (330, 390, 0.56));
        assert!((run_percent - 0.56 / 19.15 * 100.0).abs() < 1e-9);
    }

    #[test]
    fn json_has_the_keys_that_are_documented() {
        let json: serde_json::Value = serde_json::from_str(&example().json().unwrap()).unwrap();
        assert_eq!(json["phases"][1]["phase"], "arguments");
        assert_eq!(json["phases"][1]["took_ms"], 0.11);
        assert_eq!(json["exits"]["count"], 400);
        assert_eq!(json["exits"]["by_reason"][0]["reason"], "port write");
        assert_eq!(json["exits"]["by_reason"][0]["address"], "0x3f8");
        assert_eq!(json["console"]["bytes"], 330);
        assert_eq!(json["memory"]["coracle_private_bytes"], 420 << 10);
        let documented = include_str!("../../docs/timings.md");
        let mut keys = Vec::new();
        collect(&json, &mut keys);
        for key in keys {
            assert!(
                documented.contains(&format!("`{key}`")),
                "{key} is not in docs/timings.md"
            );
        }
    }

    fn collect(value: &serde_json::Value, keys: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(object) => {
                for (key, value) in object {
                    keys.push(key.clone());
                    collect(value, keys);
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, keys)),
            _ => (),
        }
    }
}
