//! Distributes rounds to machines, and collects, adds up and shows their results.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use serde::{Deserialize, Serialize};

use super::QEMU_IMG;
use super::round::{How, Round};
use crate::machines::Machine;
use crate::place;

/// How many nested machines run at once, as for the trials.
const MACHINES: usize = 2;

/// Seconds after which a machine is stopped. A round takes about ten.
const PATIENCE: u32 = 10_800;

/// What a machine reports: lines of JSON on its standard output.
#[derive(Serialize, Deserialize)]
pub enum Message {
    Round(Round),
    /// A block has ended, or could not be run.
    End {
        number: u64,
        failed: Option<String>,
    },
}

impl Message {
    pub fn send(&self) {
        println!("{}", serde_json::to_string(self).unwrap());
    }
}

#[derive(Default)]
pub struct Report {
    sums: BTreeMap<(How, String), Sum>,
    /// Why rounds or machines could not be run.
    failures: Vec<String>,
}

#[derive(Default)]
struct Sum {
    rounds: u64,
    acknowledged: u64,
    lost: u64,
    unclean: u64,
}

impl Report {
    pub fn add(&mut self, round: &Round) {
        let sum = self.sums.entry((round.how, round.disk.clone())).or_default();
        sum.rounds += 1;
        sum.acknowledged += round.acknowledged;
        sum.lost += round.lost.len() as u64;
        sum.unclean += round.unclean.len() as u64;
        let all: u64 = self.sums.values().map(|sum| sum.rounds).sum();
        eprintln!("round {all}: {round}");
    }

    pub fn fail(&mut self, why: String) {
        eprintln!("{why}");
        self.failures.push(why);
    }

    pub fn is_good(&self) -> bool {
        let acknowledged: u64 = self.sums.values().map(|sum| sum.acknowledged).sum();
        let bad: u64 = self.sums.values().map(|sum| sum.lost + sum.unclean).sum();
        self.failures.is_empty() && bad == 0 && acknowledged > 0
    }
}

/// Runs these blocks on machines, adds their results to the report, and waits for the last one.
pub fn run_blocks(seed: u64, blocks: Vec<u64>, report: &Mutex<Report>) {
    thread::scope(|scope| {
        for share in 0..MACHINES {
            let mine = blocks.iter().copied().skip(share).step_by(MACHINES).collect();
            scope.spawn(move || run_share(share, seed, mine, report));
        }
    });
}

/// Runs blocks on one machine. Those that it did not finish are a failure.
fn run_share(share: usize, seed: u64, mut blocks: Vec<u64>, report: &Mutex<Report>) {
    if let Err(why) = run_machine(share, seed, &mut blocks, report) {
        report
            .lock()
            .unwrap()
            .fail(format!("{why}; blocks {blocks:?} did not run"));
    }
}

/// Runs blocks on one machine, and removes those that it has finished from the list.
fn run_machine(share: usize, seed: u64, blocks: &mut Vec<u64>, report: &Mutex<Report>) -> Result<(), String> {
    let arguments: Vec<OsString> = ["--torture-blocks".into(), seed.to_string()]
        .into_iter()
        .chain(blocks.iter().map(u64::to_string))
        .map(OsString::from)
        .collect();
    let mut machine = match place::runs_linux() {
        true => {
            let mut here = Command::new(std::env::current_exe().map_err(|why| why.to_string())?);
            here.args(arguments);
            here
        }
        false => place::machine(
            Machine::Amd(share),
            Some(PATIENCE),
            &["--file".into(), QEMU_IMG.into()],
            &arguments,
        ),
    };
    machine.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = machine
        .spawn()
        .map_err(|why| format!("cannot run {machine:?}: {why}"))?;
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    for line in lines.map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Message::Round(round)) => report.lock().unwrap().add(&round),
            Ok(Message::End { number, failed }) => {
                blocks.retain(|left| *left != number);
                if let Some(why) = failed {
                    report.lock().unwrap().fail(format!("block {number}: {why}"));
                }
            }
            Err(why) => eprintln!("{line:?}: {why}"),
        }
    }
    let status = child.wait().map_err(|why| why.to_string())?;
    match blocks.is_empty() {
        true => Ok(()),
        false => Err(format!("a machine ended before its blocks did: {status}")),
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self {
            how,
            disk,
            milliseconds,
            acknowledged,
            lost,
            unclean,
        } = self;
        write!(
            f,
            "{}: dead after {milliseconds} ms, {acknowledged} records acknowledged",
            shown(*how, disk)
        )?;
        match self.is_good() {
            true => f.write_str(", all there, clean"),
            false => write!(f, "; LOST {lost:#?}; UNCLEAN {unclean:#?}"),
        }
    }
}

/// The first column of a table.
fn shown(how: How, disk: &str) -> String {
    let killed = match how {
        How::Coracle => "coracle killed",
        How::PowerCut => "power cut",
    };
    format!("{killed}{disk}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "{:<60} {:>6} {:>12} {:>5} {:>8}",
            "disk", "rounds", "acknowledged", "lost", "unclean"
        )?;
        let mut total = Sum::default();
        for ((how, disk), sum) in &self.sums {
            write_line(f, &shown(*how, disk), sum)?;
            total.rounds += sum.rounds;
            total.acknowledged += sum.acknowledged;
            total.lost += sum.lost;
            total.unclean += sum.unclean;
        }
        write_line(f, "all", &total)?;
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        Ok(())
    }
}

fn write_line(f: &mut fmt::Formatter, name: &str, sum: &Sum) -> fmt::Result {
    let Sum {
        rounds,
        acknowledged,
        lost,
        unclean,
    } = sum;
    writeln!(
        f,
        "{name:<60} {rounds:>6} {acknowledged:>12} {lost:>5} {unclean:>8}"
    )
}
