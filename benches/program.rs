//! A program in a guest: from the start of the process to the program's first byte, and to its end, on the deterministic
//! clocks of the nested machines, beside containers that run the same program.
//!
//! `cargo bench --bench program`, or `make bench-program`, measures and prints. With the variable CORACLE_NESTED it is `amd` or
//! `intel` only.

use std::env;
use std::error::Error;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

#[path = "shared/containers.rs"]
mod containers;
#[path = "shared/machines.rs"]
mod machines;
#[path = "disk/nested.rs"]
mod nested;

/// Given to this program when it runs inside the nested machine.
const INSIDE: &str = "--inside-the-nested-machine";
/// Measured starts of each. The clock repeats, so the median of a few is enough.
const RUNS: usize = 5;
const PROGRAM: [&str; 2] = ["echo", "hello"];
/// What containers and guests do in which further programs are started.
const IDLE: [&str; 2] = ["sleep", "100000"];
const NAME: &str = "idle";

/// Virtual milliseconds from the start of the process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Times {
    first_byte: f64,
    end: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    what: String,
    times: Times,
    /// What it is compared with is the row before.
    beside: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().any(|argument| argument == INSIDE) {
        println!("{}", serde_json::to_string(&measure()?)?);
        return Ok(());
    }
    let machines = machines::chosen()?;
    let results: Vec<Vec<Measured>> = machines::run(&machines, &containers::runtimes()?, INSIDE)?;
    for (machine, rows) in machines.iter().zip(&results) {
        println!(
            "{:<44}{:>12}{:>8}{:>10}{:>8}",
            format!("{machine}: virtual ms"),
            "first byte",
            "ratio",
            "end",
            "ratio"
        );
        let mut container = None;
        for Measured { what, times, beside } in rows {
            let ratio = |ours: f64, theirs: fn(&Times) -> f64| match (beside, &container) {
                (true, Some(container)) => format!("{:.2}", ours / theirs(container)),
                _ => String::new(),
            };
            println!(
                "{what:<44}{:>12.2}{:>8}{:>10.2}{:>8}",
                times.first_byte,
                ratio(times.first_byte, |times| times.first_byte),
                times.end,
                ratio(times.end, |times| times.end),
            );
            if !beside {
                container = Some(*times);
            }
        }
    }
    Ok(())
}

fn measure() -> Result<Vec<Measured>, Box<dyn Error>> {
    let [echo, hello] = PROGRAM;
    let mut rows = Vec::new();
    let mut row = |what: &str, beside, command: &dyn Fn(usize) -> Command| -> Result<(), Box<dyn Error>> {
        rows.push(Measured {
            what: what.to_owned(),
            times: median(command)?,
            beside,
        });
        Ok(())
    };

    containers::make_bundle(&["bin/busybox", "bin/sh"], &PROGRAM)?;
    let bin = format!("{}/rootfs/bin", containers::BUNDLE);
    for program in [echo, IDLE[0]] {
        fs::hard_link(format!("{bin}/busybox"), format!("{bin}/{program}"))?;
    }
    row("crun run", false, &|run| {
        containers::start("crun", &[], &format!("run-{run}"))
    })?;
    row("coracle run -- echo hello", true, &|_| {
        coracle(&["run", "--", echo, hello])
    })?;

    containers::set_command(&IDLE)?;
    finish(containers::start("crun", &["--detach"], NAME))?;
    row("crun exec NAME echo hello", false, &|_| {
        let mut command = Command::new("crun");
        command.args(["exec", NAME, echo, hello]);
        command
    })?;
    let mut command = Command::new("crun");
    command.args(["delete", "--force", NAME]);
    finish(command)?;
    finish(coracle(&["run", "-d", "--name", NAME, "--", IDLE[0], IDLE[1]]))?;
    row("coracle exec NAME echo hello", true, &|_| {
        coracle(&["exec", NAME, echo, hello])
    })?;
    finish(coracle(&["kill", NAME]))?;
    Ok(rows)
}

fn coracle(arguments: &[&str]) -> Command {
    let mut command = Command::new("coracle");
    command.args(arguments);
    command
}

/// Runs a command that must succeed, without its output.
fn finish(mut command: Command) -> Result<(), Box<dyn Error>> {
    // A container in the background would keep a pipe open.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{command:?} ended with {status}").into()),
    }
}

fn median(command: &dyn Fn(usize) -> Command) -> Result<Times, Box<dyn Error>> {
    // The first start brings the files into the page cache and does not count.
    let times: Result<Vec<_>, _> = (0..=RUNS).map(|run| time(command(run))).collect();
    let times = times?.split_off(1);
    let middle = |of: fn(&Times) -> f64| {
        let mut sorted: Vec<_> = times.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        sorted[RUNS / 2]
    };
    Ok(Times {
        first_byte: middle(|times| times.first_byte),
        end: middle(|times| times.end),
    })
}

/// Starts a runner of the program, and waits for its first byte and its end.
fn time(mut command: Command) -> Result<Times, Box<dyn Error>> {
    let begin = Instant::now();
    let since = || begin.elapsed().as_secs_f64() * 1e3;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().ok_or("stdout is no pipe")?;
    let mut output = vec![0];
    let got = stdout.read(&mut output)?;
    let first_byte = since();
    stdout.read_to_end(&mut output)?;
    let status = child.wait()?;
    let end = since();
    if got == 0 || !status.success() || output != format!("{}\n", PROGRAM[1]).as_bytes() {
        let output = String::from_utf8_lossy(&output);
        return Err(format!("{command:?} ended with {status} and printed {output:?}").into());
    }
    Ok(Times { first_byte, end })
}
