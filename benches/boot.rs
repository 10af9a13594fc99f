//! The boot budget: from the start of the process to the first line of init, phase by phase, on the deterministic clocks
//! of both nested machines, beside containers that run the same init, against the figures that are checked in.
//!
//! `cargo bench --bench boot`, or `make bench-boot`, measures and prints the difference to benches/boot.json;
//! `-- --save` writes that file anew, which belongs in the commit that changed the figures. With the variable
//! CORACLE_NESTED it is `amd` or `intel` only.
//!
//! Beside it stands how long a pause of a running machine takes.
//!
//! A nested machine's clock counts instructions, a virtual nanosecond each, so the figures repeat and do not depend on the
//! host. Neither clock shows what a VM exit costs a real processor, so exits are counted beside it.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use coracle::config::{Config, Disk};
use coracle::console::{Console, Pace};
use coracle::machine::{Machine, OpenFiles, Outcome};
use coracle::timeline::Timeline;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[path = "shared/containers.rs"]
mod containers;
#[path = "shared/machines.rs"]
mod machines;
#[path = "disk/nested.rs"]
mod nested;

/// What init's first line begins with, in a guest and in a container.
const FIRST_LINE: &str = "Coracle guest: ";
/// Given to this program when it runs inside the nested machine.
const INSIDE: &str = "--inside-the-nested-machine";
const SAVE: &str = "--save";
const TIMINGS: &str = "/run/timings.json";
const DISK: &str = "/run/disk";
/// Measured starts of each. The clock repeats, so the median of a few is enough.
const RUNS: usize = 3;

/// What a guest prints once it does what it is to do while it is paused.
const WORKING: &str = "working";
const IDLE: &str = "echo working; sleep 1000";
const BUSY: &str = "for vcpu in 1 2 3 4; do while :; do :; done & done; echo working; wait";
const PAUSES: usize = 20;
/// No multiple of a tick, so that the pauses come at different moments of it.
const BETWEEN_PAUSES: Duration = Duration::from_micros(1_700);

/// What one machine measured of a line of the budget.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Figures {
    /// Virtual milliseconds.
    ms: f64,
    /// Exits that reach Coracle.
    #[serde(skip_serializing_if = "Option::is_none")]
    exits: Option<u64>,
    /// All exits, by KVM's own count.
    #[serde(skip_serializing_if = "Option::is_none")]
    kvm_exits: Option<u64>,
}

/// A line of the budget on one machine.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    what: String,
    #[serde(flatten)]
    figures: Figures,
}

/// A line of the budget.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    what: String,
    /// By the machine's name.
    #[serde(flatten)]
    on: BTreeMap<String, Figures>,
}

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().any(|argument| argument == INSIDE) {
        println!("{}", serde_json::to_string(&measure()?)?);
        return Ok(());
    }
    let machines = machines::chosen()?;
    let rows = measure_in_nested_machines(&machines)?;
    let budget = nested::root().join("benches/boot.json");
    let before: Vec<Row> = match fs::read(&budget) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => Vec::new(),
    };
    print(&machines, &rows, &before);
    if env::args().any(|argument| argument == SAVE) {
        let rows = with_unmeasured(rows, &before);
        fs::write(&budget, serde_json::to_string_pretty(&rows)? + "\n")?;
    }
    Ok(())
}

fn measure_in_nested_machines(machines: &[&str]) -> Result<Vec<Row>, Box<dyn Error>> {
    let stock = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stock");
    nested::call("tests/nested/stock-kernel", &[&stock.display().to_string()])?;
    let [crun, runc] = containers::runtimes()?;
    let files = [(stock.join("vmlinuz"), "/stock/vmlinuz"), crun, runc];
    let results: Vec<Vec<Measured>> = machines::run(machines, &files, INSIDE)?;

    let mut rows: Vec<Row> = Vec::new();
    for (machine, measured) in machines.iter().zip(results) {
        for Measured { what, figures } in measured {
            let on = (machine.to_string(), figures);
            match rows.iter_mut().find(|row| row.what == what) {
                Some(row) => row.on.extend([on]),
                None => rows.push(Row {
                    what,
                    on: [on].into(),
                }),
            }
        }
    }
    Ok(rows)
}

/// `rows`, and the figures of `before` of the machines that were not measured now.
fn with_unmeasured(mut rows: Vec<Row>, before: &[Row]) -> Vec<Row> {
    for row in &mut rows {
        if let Some(before) = before.iter().find(|before| before.what == row.what) {
            let mut on = before.on.clone();
            on.append(&mut row.on);
            row.on = on;
        }
    }
    rows
}

fn print(machines: &[&str], rows: &[Row], before: &[Row]) {
    println!(
        "process start to init's first line, 128 MiB, page cache warm; with + or - the difference to benches/boot.json"
    );
    print!("{:<50}", "");
    for machine in machines {
        print!(
            "{:>18}{:>9}{:>13}",
            format!("{machine}: virtual ms"),
            "exits",
            "KVM's exits"
        );
    }
    println!();
    for row in rows {
        print!("{:<50}", row.what);
        let budget = before.iter().find(|before| before.what == row.what);
        for machine in machines {
            let Some(now) = row.on.get(*machine) else {
                print!("{:40}", "");
                continue;
            };
            let budget = budget.and_then(|budget| budget.on.get(*machine));
            let ms = match budget {
                Some(budget) => format!("{:.2} {:+.2}", now.ms, now.ms - budget.ms),
                None => format!("{:.2}", now.ms),
            };
            print!(
                "{ms:>18}{:>9}{:>13}",
                count(now.exits, budget.and_then(|budget| budget.exits)),
                count(now.kvm_exits, budget.and_then(|budget| budget.kvm_exits)),
            );
        }
        println!();
    }
}

/// A count, and its difference to the budget where there is one.
fn count(now: Option<u64>, budget: Option<u64>) -> String {
    match (now, budget) {
        (Some(now), Some(budget)) if now != budget => format!("{now} {:+}", now as i64 - budget as i64),
        (Some(now), _) => now.to_string(),
        (None, _) => String::new(),
    }
}

fn measure() -> Result<Vec<Measured>, Box<dyn Error>> {
    containers::make_bundle(&["init"], &["/init"])?;
    let total = |what: &str, ms: f64| Measured {
        what: what.to_owned(),
        figures: Figures {
            ms,
            exits: None,
            kvm_exits: None,
        },
    };
    let coracle = |arguments: &[&str]| {
        let mut command = Command::new("coracle");
        command.args(["run", "--memory", "128M"]).args(arguments);
        command
    };
    let mut rows = vec![
        total("crun", median(|run| container("crun", run))?),
        total("runc", median(|run| container("runc", run))?),
        total("coracle", median(|_| coracle(&[]))?),
    ];
    let timed = start(coracle(&[&format!("--timings={TIMINGS}")]))?;
    rows.extend(phases(timed, &serde_json::from_slice(&fs::read(TIMINGS)?)?)?);
    rows.push(total("coracle, 2 vCPUs", median(|_| coracle(&["--cpus", "2"]))?));
    rows.push(total("pause of 4 vCPUs that wait", usual_pause(IDLE)?));
    rows.push(total("pause of 4 vCPUs that work", usual_pause(BUSY)?));
    // Debian's kernel, a bzImage packed with LZ4, with the same init: shows what its additional features cost.
    let stock = || coracle(&["--kernel", "/stock/vmlinuz", "--initrd", containers::INITRD]);
    rows.push(total(
        "coracle, Debian's cloud kernel as shipped (once)",
        start(stock())?,
    ));
    Ok(rows)
}

/// Pauses and resumes a guest with 4 vCPUs and a disk, whose init runs `script`, and returns the median of the times from
/// the order to pause until every vCPU and device stood still. Now and then the host has other work for 2 ms just then.
fn usual_pause(script: &str) -> Result<f64, Box<dyn Error>> {
    fs::write(DISK, [0; 1 << 20])?;
    let config = Config {
        cpus: 4,
        cmdline: format!("-- sh -c \"{script}\""),
        disks: vec![Disk::new(DISK.into())],
        ..Config::default()
    };
    let opened = OpenFiles::open(&config)?;
    let console = Console::default();
    let mut reader = console.attach(Pace::GuestWaits);
    let machine = Machine::build(&config, &opened, "", console.sink(), &Timeline::off())?;
    let running = machine.start()?;
    let (mut output, mut bytes) = (Vec::new(), Vec::new());
    while !String::from_utf8_lossy(&output).contains(WORKING) {
        if let coracle::console::Read::Ended = reader.read(&mut bytes) {
            return Err("the guest ended".into());
        }
        output.append(&mut bytes);
    }
    let mut pauses = Vec::with_capacity(PAUSES);
    for _ in 0..PAUSES {
        thread::sleep(BETWEEN_PAUSES);
        let ordered = Instant::now();
        if !running.pause() {
            return Err("the guest ended".into());
        }
        pauses.push(ordered.elapsed());
        running.resume();
    }
    running.end(Outcome::Quit);
    running.wait();
    pauses.sort();
    Ok(pauses[PAUSES / 2].as_secs_f64() * 1e3)
}

/// The report of a run with `--timings`, summed up into the parts of a boot.
fn phases(total: f64, timings: &Value) -> Result<Vec<Measured>, Box<dyn Error>> {
    let phases = timings["phases"].as_array().ok_or("no phases")?;
    let place = |name: &str| {
        let place = phases.iter().position(|phase| phase["phase"] == name);
        place.ok_or_else(|| format!("no phase {name}"))
    };
    let ended = |name: &str| Ok::<_, String>(phases[place(name)?]["ended_ms"].as_f64().unwrap_or_default());
    let part = |what: &str, from: &str, to: &str| {
        let within = &phases[place(from)? + 1..=place(to)?];
        let sum = |key: &str| {
            within
                .iter()
                .map(|phase| phase[key].as_u64())
                .sum::<Option<u64>>()
        };
        Ok::<_, String>(Measured {
            what: format!("  {what}"),
            figures: Figures {
                ms: ended(to)? - ended(from)?,
                exits: sum("exits"),
                kvm_exits: sum("kvm_exits"),
            },
        })
    };
    let host = phases[place("vm_created")?]["took_ms"]
        .as_f64()
        .unwrap_or_default();
    let row = |what: &str, ms| Measured {
        what: format!("  {what}"),
        figures: Figures {
            ms,
            exits: None,
            kvm_exits: None,
        },
    };
    Ok(vec![
        row(
            "host kernel: fork, exec, the pipe's reader",
            total - ended("init_line")?,
        ),
        row("VMM: to its first KVM_RUN", ended("first_guest_instruction")?),
        row("  of which until KVM has made a VM, loading beside it", host),
        part(
            "guest kernel: until it knows its command line",
            "first_guest_instruction",
            "guest_mark_1",
        )?,
        part(
            "guest kernel: from there until it executes init",
            "guest_mark_1",
            "guest_mark_2",
        )?,
        part("init: to the end of its first line", "guest_mark_2", "init_line")?,
    ])
}

fn median(command: impl Fn(usize) -> Command) -> Result<f64, Box<dyn Error>> {
    // The first start brings the files into the page cache and does not count.
    let starts: Result<Vec<_>, _> = (0..=RUNS).map(|run| start(command(run))).collect();
    let mut starts = starts?.split_off(1);
    starts.sort_by(f64::total_cmp);
    Ok(starts[RUNS / 2])
}

fn container(runtime: &str, run: usize) -> Command {
    containers::start(runtime, &[], &format!("boot-{run}"))
}

/// Starts a runner, returns the milliseconds until its first line, and waits until it ends.
fn start(mut command: Command) -> Result<f64, Box<dyn Error>> {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("stdout is no pipe")?);
    let mut line = String::new();
    loop {
        line.clear();
        if output.read_line(&mut line)? == 0 {
            let status = child.wait()?;
            return Err(format!("{command:?} ended with {status} and without init's first line").into());
        }
        if line.starts_with(FIRST_LINE) {
            break;
        }
    }
    let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
    output.read_to_end(&mut Vec::new())?;
    child.wait()?;
    Ok(milliseconds)
}
