//! From the start of the process to the first line of init: the built-in guest beside containers that run the same
//! init, on the deterministic clock.
//!
//! `cargo bench --bench boot [-- RUNS]`, after `make guest`. The whole comparison runs in the nested machine with its
//! clock counting instructions, a virtual nanosecond each, so the figures repeat and do not depend on the host. What
//! that clock does not see is what leaving a guest costs a real processor; so exits are counted beside it.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::json;

/// What init's first line begins with, in a guest and in a container.
const FIRST_LINE: &str = "Coracle guest: ";
/// Says that this program is inside of the nested machine.
const INSIDE: &str = "--inside-the-nested-machine";
const INIT: &str = "target/x86_64-unknown-linux-gnu/init/coracle-init";
const BUNDLE: &str = "/run/bundle";

fn main() -> Result<(), Box<dyn Error>> {
    let runs = env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(3);
    match env::args().any(|argument| argument == INSIDE) {
        true => compare(runs),
        false => enter_nested_machine(runs),
    }
}

/// Becomes the nested machine, with this program running in it.
fn enter_nested_machine(runs: usize) -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = Command::new(root.join("guest-images/need"))
        .args(["crun", "runc"])
        .status()?;
    if !packages.success() {
        return Err("crun and runc cannot be installed".into());
    }
    let this = env::current_exe()?.display().to_string();
    let files = [
        this + ":/boot",
        root.join(INIT).display().to_string() + ":/init-of-the-guest",
    ];
    let runners = ["/usr/bin/crun", "/usr/sbin/runc"].map(|path| format!("{path}:{path}"));
    let error = Command::new(root.join("tests/nested/run"))
        .arg("--deterministic")
        .args(files.iter().chain(&runners).flat_map(|file| ["--file", file]))
        .args(["--", "/boot", INSIDE, &runs.to_string()])
        .exec();
    Err(error.into())
}

struct Start {
    milliseconds: f64,
    notes: Vec<String>,
}

/// A name, and the command line of the run with a number.
type Runner = (&'static str, fn(usize) -> Command);

fn compare(runs: usize) -> Result<(), Box<dyn Error>> {
    make_bundle()?;
    // Counters of KVM. Without them the times still stand.
    let _ = Command::new("mount")
        .args(["-t", "debugfs", "debugfs", "/sys/kernel/debug"])
        .status();
    println!("process start to init's first line, 1 vCPU, 128 MiB, page cache warm, virtual milliseconds");
    let runners: [Runner; 4] = [
        ("crun", |run| container("crun", run)),
        ("runc", |run| container("runc", run)),
        ("coracle", |_| guest(1)),
        ("coracle, 2 vCPUs", |_| guest(2)),
    ];
    for (name, command) in runners {
        // The first run brings the files into the page cache.
        let starts = (0..=runs)
            .map(|run| start(command(run)))
            .collect::<Result<Vec<_>, _>>()?;
        let figures: Vec<_> = starts[1..]
            .iter()
            .map(|start| format!("{:.2}", start.milliseconds))
            .collect();
        println!("{name:<18} {}", figures.join("  "));
        for note in &starts[runs].notes {
            println!("{:<18} {note}", "");
        }
    }
    Ok(())
}

fn guest(cpus: u8) -> Command {
    let mut command = Command::new("coracle");
    command.args(["run", "--memory", "128M", "--cpus", &cpus.to_string()]);
    command
}

fn container(runtime: &str, run: usize) -> Command {
    let mut command = Command::new(runtime);
    command.args(["run", "--bundle", BUNDLE, &format!("boot-{run}")]);
    command
}

/// A bundle as the runtimes make it themselves, with init as its command and without a terminal.
fn make_bundle() -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(format!("{BUNDLE}/rootfs"))?;
    fs::copy("/init-of-the-guest", format!("{BUNDLE}/rootfs/init"))?;
    let made = Command::new("runc").args(["spec", "--bundle", BUNDLE]).status()?;
    if !made.success() {
        return Err("runc makes no bundle".into());
    }
    let path = format!("{BUNDLE}/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["args"] = json!(["/init"]);
    config["process"]["terminal"] = json!(false);
    fs::write(path, serde_json::to_vec(&config)?)?;
    Ok(())
}

/// Starts a runner, times its first line, and lets it come to its end.
fn start(mut command: Command) -> Result<Start, Box<dyn Error>> {
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
            return Err(format!(
                "{command:?} ended with {} and without init's first line",
                child.wait()?
            )
            .into());
        }
        if line.starts_with(FIRST_LINE) {
            break;
        }
    }
    let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
    let notes = notes(&child);
    output.read_to_end(&mut Vec::new())?;
    child.wait()?;
    Ok(Start { milliseconds, notes })
}

/// What a VMM's process and KVM tell at this moment; nothing for a container's runtime.
fn notes(child: &Child) -> Vec<String> {
    let mut notes = Vec::new();
    let exits = kvm_counters(child.id());
    if !exits.is_empty() {
        let exits: Vec<_> = exits
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        notes.push(format!("KVM counts: {}", exits.join(", ")));
        if let Some((vmm, guest)) = memory(child.id()) {
            notes.push(format!(
                "memory: {vmm} kB private and dirty in the VMM, {guest} kB of the guest touched"
            ));
        }
    }
    notes
}

/// KVM's counters of the process's VM that say how often the guest was left, and why.
fn kvm_counters(pid: u32) -> BTreeMap<String, u64> {
    const COUNTERS: [&str; 7] = [
        "exits",
        "io_exits",
        "mmio_exits",
        "halt_exits",
        "irq_exits",
        "pf_taken",
        "hypercalls",
    ];
    let Ok(directories) = fs::read_dir("/sys/kernel/debug/kvm") else {
        return BTreeMap::new();
    };
    // A VM's directory is named by the process and a descriptor.
    let ours = |name: &str| {
        name.split_once('-')
            .is_some_and(|(process, _)| process == pid.to_string())
    };
    let directory = directories
        .flatten()
        .find(|entry| ours(&entry.file_name().to_string_lossy()));
    let Some(directory) = directory else {
        return BTreeMap::new();
    };
    let read = |name: &str| {
        fs::read_to_string(directory.path().join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    COUNTERS
        .iter()
        .filter_map(|name| Some((name.to_string(), read(name)?)))
        .collect()
}

/// Private dirty kilobytes outside of guest memory, and inside. Guest memory is the mappings of 32 MiB and more:
/// nothing else in the process is that large. What is private and dirty is anonymous; the field that says
/// `Private_Dirty` counts the program's own pages too where its file is in memory, as everything here is.
fn memory(pid: u32) -> Option<(u64, u64)> {
    const GUEST_MEMORY_MIN: u64 = 32 << 10;
    let (mut vmm, mut guest, mut size) = (0, 0, 0);
    for line in fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?.lines() {
        let Some((field, value)) = line.split_once(':') else {
            continue;
        };
        let kilobytes = || value.trim().trim_end_matches(" kB").parse::<u64>().ok();
        match field {
            "Size" => size = kilobytes()?,
            "Anonymous" if size >= GUEST_MEMORY_MIN => guest += kilobytes()?,
            "Anonymous" => vmm += kilobytes()?,
            _ => (),
        }
    }
    Some((vmm, guest))
}
