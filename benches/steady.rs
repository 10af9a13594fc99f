//! What kernels do for programs all day: the built-in guest's kernel beside Debian's cloud kernel of the series 6.12, each as a
//! guest of Coracle with the same programs and the same disk, on the deterministic clocks of the nested machines.
//!
//! `cargo bench --bench steady`, or `make bench-steady`, measures and prints. With the variable CORACLE_NESTED it is `amd` or
//! `intel` only.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cpio::newc::Reader;

#[path = "shared/machines.rs"]
mod machines;
#[path = "disk/nested.rs"]
mod nested;

/// Given to this program when it runs inside the nested machine.
const INSIDE: &str = "--inside-the-nested-machine";
/// The series of Debian's kernel.
const SERIES: &str = "6.12";
/// What the disk has.
const PROGRAM: &str = "load";
const SCRIPT: &str = "steady.sh";
const DISK_SIZE: &str = "256M";
/// Where the files are inside.
const KERNEL: &str = "/stock/vmlinuz";
const INITRD: &str = "/stock/initrd";
const DISK: &str = "/stock/disk";

/// Nanoseconds of the machine's clock, which are instructions, of each kind of work by its name.
type Times = BTreeMap<String, u64>;

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().any(|argument| argument == INSIDE) {
        println!("{}", serde_json::to_string(&measure()?)?);
        return Ok(());
    }
    let machines = machines::chosen()?;
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("steady");
    let stock = scratch.join("stock");
    nested::call(
        "tests/nested/stock-kernel",
        &[&stock.display().to_string(), SERIES],
    )?;
    let disk = make_disk(&scratch)?;
    let files = [
        (stock.join("vmlinuz"), KERNEL),
        (stock.join("stock-initrd"), INITRD),
        (disk, DISK),
    ];
    let results: Vec<Vec<(String, Times)>> = machines::run(&machines, &files, INSIDE)?;
    for (machine, results) in machines.iter().zip(&results) {
        print(machine, results);
    }
    Ok(())
}

/// Pairs of columns, ours and Debian's, with the ratio behind each.
fn print(machine: &str, results: &[(String, Times)]) {
    print!("{:<46}", format!("{machine}: instructions"));
    for pair in results.chunks(2) {
        for (what, _) in pair {
            print!("{what:>26}");
        }
        print!("{:>8}", "ratio");
    }
    println!();
    let names = results.first().into_iter().flat_map(|(_, times)| times.keys());
    for name in names {
        print!("{name:<46}");
        for pair in results.chunks(2) {
            let times: Vec<_> = pair.iter().filter_map(|(_, times)| times.get(name)).collect();
            times.iter().for_each(|time| print!("{time:>26}"));
            if let [ours, theirs] = times[..] {
                print!("{:>8.3}", *ours as f64 / *theirs as f64);
            }
        }
        println!();
    }
}

/// A file system with the program that measures and the script that starts it.
fn make_disk(scratch: &Path) -> Result<PathBuf, Box<dyn Error>> {
    nested::call("guest-images/build", &["load"])?;
    let root = scratch.join("root");
    fs::create_dir_all(&root)?;
    let initrd = fs::read(nested::root().join("guest-images/out/load"))?;
    let mut rest = &initrd[..];
    loop {
        let mut entry = Reader::new(rest)?;
        if entry.entry().is_trailer() {
            return Err("the initrd has no /init".into());
        }
        if entry.entry().name().trim_start_matches('/') == "init" {
            std::io::copy(&mut entry, &mut fs::File::create(root.join(PROGRAM))?)?;
            break;
        }
        rest = entry.finish()?;
    }
    let script = format!("cp /mnt/{PROGRAM} /{PROGRAM} && chmod 755 /{PROGRAM} && /{PROGRAM} steady /mnt\n");
    fs::write(root.join(SCRIPT), script)?;
    let disk = scratch.join("disk");
    let mut command = Command::new("mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .args([&root, &disk])
        .arg(DISK_SIZE);
    let status = command.status()?;
    match status.success() {
        true => Ok(disk),
        false => Err(format!("{command:?} ended with {status}").into()),
    }
}

fn measure() -> Result<Vec<(String, Times)>, Box<dyn Error>> {
    let mut results = Vec::new();
    for (mitigations, with) in [("auto", ""), ("off", ", no mitigations")] {
        for (kernel, name) in [(None, "built-in"), (Some(KERNEL), "Debian's")] {
            results.push((format!("{name}{with}"), run(kernel, mitigations)?));
        }
    }
    Ok(results)
}

/// What a guest with this kernel prints of its work.
fn run(kernel: Option<&str>, mitigations: &str) -> Result<Times, Box<dyn Error>> {
    let mut command = Command::new("coracle");
    command.args(["run", "--memory", "512M", "--initrd", INITRD]);
    command.args(["--disk", &format!("{DISK},ephemeral")]);
    command.args([
        "--cmdline",
        &format!("quiet mitigations={mitigations} coracle.script={SCRIPT}"),
    ]);
    if let Some(kernel) = kernel {
        command.args(["--kernel", kernel]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let times: Times = printed
        .lines()
        .filter_map(|line| {
            let (name, time) = line.trim().strip_prefix("steady ")?.rsplit_once(' ')?;
            Some((name.to_owned(), time.parse().ok()?))
        })
        .collect();
    match times.is_empty() || !printed.contains("script ended 0") {
        true => Err(format!("{command:?} ended with {} and printed {printed}", output.status).into()),
        false => Ok(times),
    }
}
