//! From the start of the process to the first KVM_RUN, on the host's own KVM, with the phases in between.
//!
//! `cargo bench --bench start [-- RUNS]`. The guest is the built-in one, its files in the page cache after the first
//! run, which is not counted. Wall clock, so only a quiet machine gives figures to keep. Each phase ends with a line
//! that `coracle run -v` logs with the time of the host's monotonic clock.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use coracle::clock::monotonic;

/// The last log line before the first KVM_RUN.
const LAST: &str = "vCPU 0 enters the guest";
/// The phase before main begins.
const FORK_AND_EXEC: &str = "fork, exec, the loader";
/// How the log line begins that says how many microseconds ago main began.
const MAIN: &str = "main began ";

fn main() {
    // Cargo passes --bench.
    let runs = env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(20);
    if coracle::built_in::kernel().is_none() {
        println!("start: there is no built-in guest to start; 'make guest' builds it");
        return;
    }
    start();
    let runs: Vec<_> = (0..runs).map(|_| start()).collect();
    println!(
        "process start to first KVM_RUN, median of {} runs (milliseconds since main began; fork and exec are before)",
        runs.len()
    );
    // Two threads build a machine, so the order of their phases is not always the same.
    let mut phases: Vec<_> = runs[0]
        .iter()
        .map(|(name, _)| {
            let times = runs.iter().flatten().filter(|phase| phase.0 == *name);
            (median(times.map(|phase| phase.1)), name)
        })
        .collect();
    phases.sort();
    let before = phases
        .iter()
        .position(|phase| phase.1 == FORK_AND_EXEC)
        .map(|at| phases.remove(at).0);
    println!(
        "{:>9.3}  before that: {FORK_AND_EXEC}",
        milliseconds(before.unwrap_or_default())
    );
    for (median, name) in phases {
        println!("{:>9.3}  {name}", milliseconds(median));
    }
    let totals = || {
        runs.iter()
            .filter_map(|phases| phases.last())
            .map(|phase| phase.1)
    };
    let (least, most) = (
        totals().min().unwrap_or_default(),
        totals().max().unwrap_or_default(),
    );
    println!("range {:.3} to {:.3}", milliseconds(least), milliseconds(most));
}

/// Starts a guest, and ends it once it runs; each phase with the time since the start at its end.
fn start() -> Vec<(String, Duration)> {
    let begin = monotonic();
    let mut coracle = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["run", "-v"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("coracle starts");
    let log = BufReader::new(coracle.stderr.take().expect("stderr is a pipe"));
    let mut phases = Vec::new();
    let mut began = begin;
    for line in log.lines() {
        let line = line.expect("the log is text");
        let Some((time, phase)) = line
            .strip_prefix("coracle: debug: [")
            .and_then(|line| line.split_once("] "))
        else {
            panic!("coracle run: {line}");
        };
        let time = Duration::from_secs_f64(time.parse().expect("a log line has a time"));
        if let Some(since) = phase.strip_prefix(MAIN).and_then(|phase| phase.split_once(' ')) {
            began = time - Duration::from_micros(since.0.parse().expect("a number of microseconds"));
            continue;
        }
        phases.push((phase.to_owned(), time.saturating_sub(began)));
        if phase == LAST {
            break;
        }
    }
    coracle.kill().expect("coracle runs");
    coracle.wait().expect("coracle ends");
    assert_ne!(began, begin, "main never began");
    phases.insert(0, (FORK_AND_EXEC.to_owned(), began - begin));
    assert_eq!(
        phases.last().map(|phase| phase.0.as_str()),
        Some(LAST),
        "the guest never started"
    );
    phases
}

fn median(values: impl Iterator<Item = Duration>) -> Duration {
    let mut values: Vec<_> = values.collect();
    values.sort();
    values[values.len() / 2]
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
