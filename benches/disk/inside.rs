//! The half of the guest's measurements that runs inside of the nested machine, as root of it.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::device::{self, Cost};

/// Given to this program when it runs inside the nested machine.
pub const FLAG: &str = "--inside-the-nested-machine";
/// Where the initrd with the load is.
pub const LOAD: &str = "/load";

/// What each guest is asked for: guest-images/load says what a pattern means.
pub const PATTERNS: [&str; 6] = [
    "randread:4096:1:1000",
    "randwrite:4096:1:1000",
    "randread:4096:32:4000",
    "randwrite:4096:32:4000",
    "read:1048576:1:50",
    "read:1048576:4:50",
];

/// An image of 128 MiB in the page cache, and one on a file system of a device that has it in memory: what io_uring
/// cannot do at once, and O_DIRECT, are only there.
const IMAGES: &str = "
    mkdir -p /images/cached /images/device
    mount -t tmpfs none /images/cached
    modprobe null_blk nr_devices=0
    mount -t configfs none /sys/kernel/config
    device=/sys/kernel/config/nullb/nullb0
    mkdir $device
    echo 192 >$device/size
    echo 1 >$device/memory_backed
    echo 512 >$device/blocksize
    echo 1 >$device/power
    /sbin/mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/nullb0
    mount -t ext4 /dev/nullb0 /images/device
    dd if=/dev/zero of=/images/cached/image bs=1M count=128 2>/dev/null
    dd if=/dev/zero of=/images/device/image bs=1M count=128 2>/dev/null
    sync
    mount -t debugfs none /sys/kernel/debug
";
/// Without this the host waits between 4 and 9 ms for a grace period of RCU in KVM_CREATE_VM, which would hide all else
/// (docs/boot.md).
const NO_GRACE_PERIOD: &str = "mount -o remount,favordynmods /sys/fs/cgroup";
const TIMINGS: &str = "/run/timings.json";
/// Longer than any pattern takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Starts of which the median counts.
const STARTS: usize = 5;

/// Where an image is and how it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Place {
    /// A file in memory.
    Cached,
    /// A file of a file system on a device, through the page cache.
    Device,
    /// The same file, past the page cache.
    Direct,
}

impl Place {
    fn image(self) -> &'static str {
        match self {
            Self::Cached => "/images/cached/image",
            Self::Device | Self::Direct => "/images/device/image",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    pub place: Place,
    pub is_coracle: bool,
    /// Engine, or what else tells it from others of its kind.
    pub settings: String,
    pub pattern: String,
    /// Virtual nanoseconds for a transfer.
    pub time: f64,
    /// Exits for a transfer, those that reach the program and all of them.
    pub exits: f64,
    pub kvm_exits: f64,
}

/// A start of a machine, in virtual milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    pub disk: String,
    pub first_kvm_run: f64,
    /// Until init has written its first line, which is after the guest has found its disk.
    pub init: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    pub transfers: Vec<Measured>,
    pub starts: Vec<Start>,
    pub device: Vec<Cost>,
}

pub fn run() -> Result<(), Box<dyn Error>> {
    shell(IMAGES)?;
    let mut transfers = Vec::new();
    for place in [Place::Cached, Place::Device, Place::Direct] {
        for engine in ["sync", "uring"] {
            transfers.extend(measure(place, true, engine, coracle(place, engine))?);
        }
        for settings in qemu_settings(place) {
            transfers.extend(measure(place, false, settings, qemu(place, settings))?);
        }
    }
    shell(NO_GRACE_PERIOD)?;
    let image = Place::Device.image();
    let disks = [
        String::new(),
        format!("{image},engine=sync"),
        format!("{image},engine=uring"),
        format!("{image},cache=direct"),
        format!("{image},ephemeral"),
    ];
    let starts = disks.iter().map(|disk| start(disk)).collect::<Result<_, _>>()?;
    let device = device::measure(Path::new(Place::Cached.image()))?;
    let results = Results {
        transfers,
        starts,
        device,
    };
    println!("{}", serde_json::to_string(&results)?);
    Ok(())
}

fn shell(script: &str) -> Result<(), Box<dyn Error>> {
    match Command::new("sh").args(["-e", "-c", script]).status()? {
        status if status.success() => Ok(()),
        status => Err(format!("{script} ended with {status}").into()),
    }
}

fn coracle(place: Place, engine: &str) -> Command {
    let cache = if place == Place::Direct {
        ",cache=direct"
    } else {
        ""
    };
    let disk = format!("{},engine={engine}{cache}", place.image());
    let mut command = Command::new("coracle");
    command
        .args(["run", "--memory", "256M", "--initrd", LOAD, "--disk", &disk])
        .args(["--cmdline", &format!("/dev/vda {}", PATTERNS.join(" "))]);
    command
}

/// How QEMU did best, in one row or another, of all that was tried: its engines threads, native and io_uring, an iothread
/// or the main loop, the iothread polling or not, event_idx, packed rings. "thread" is an iothread that does not poll: on
/// one CPU it would take that from the guest.
fn qemu_settings(place: Place) -> &'static [&'static str] {
    match place {
        Place::Cached => &[
            "io_uring,thread",
            "io_uring,thread,event_idx=off",
            "io_uring",
            "threads",
        ],
        Place::Device => &["io_uring,thread,event_idx=off", "io_uring"],
        Place::Direct => &[
            "io_uring,thread,event_idx=off",
            "native,thread,event_idx=off",
            "native",
            "io_uring",
        ],
    }
}

fn qemu(place: Place, settings: &str) -> Command {
    let (aio, settings) = settings.split_once(',').unwrap_or((settings, ""));
    let direct = if place == Place::Direct { "on" } else { "off" };
    let drive = format!(
        "driver=file,filename={},aio={aio},cache.direct={direct},node-name=image",
        place.image()
    );
    let mut device = "virtio-blk-device,drive=image".to_owned();
    for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
        device += match setting {
            "thread" => ",iothread=thread",
            _ => ",event_idx=off",
        };
    }
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-M",
            "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,acpi=off",
        ])
        .args([
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-m",
            "256",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ])
        .args([
            "-display",
            "none",
            "-serial",
            "stdio",
            "-global",
            "virtio-mmio.force-legacy=false",
        ])
        .args(["-kernel", "/guest-images/out/vmlinux", "-initrd", LOAD, "-append"])
        .arg(format!(
            "console=ttyS0 panic=-1 reboot=t quiet /dev/vda {}",
            PATTERNS.join(" ")
        ))
        .args([
            "-object",
            "iothread,id=thread,poll-max-ns=0",
            "-blockdev",
            &drive,
            "-device",
            &device,
        ]);
    command
}

/// A process that is killed when this is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both are errors only of a process that has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a guest through all patterns.
fn measure(
    place: Place,
    is_coracle: bool,
    settings: &str,
    mut command: Command,
) -> Result<Vec<Measured>, Box<dyn Error>> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut machine = Machine(child);
    let output = machine.0.stdout.take().ok_or("stdout is no pipe")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Sending fails once the receiver has its result and is gone.
            let _ = sender.send(line);
        }
    });
    let mut measured = Vec::new();
    let mut before = Counters::default();
    while let Ok(line) = lines.recv_timeout(PATIENCE) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["begin", _] => before = Counters::read()?,
            ["end", pattern, nanoseconds] => {
                let after = Counters::read()?;
                let transfers: f64 = pattern.rsplit(':').next().unwrap_or_default().parse()?;
                let time = nanoseconds.parse::<f64>()? / transfers;
                // The whole takes minutes, so the person who waits is shown progress.
                let name = if is_coracle { "coracle" } else { "QEMU" };
                eprintln!("{place:?}, {name} with {settings}: {pattern} {time:.0} ns");
                measured.push(Measured {
                    place,
                    is_coracle,
                    settings: settings.to_owned(),
                    pattern: pattern.to_owned(),
                    time,
                    exits: (after.exits - before.exits) as f64 / transfers,
                    kvm_exits: (after.kvm_exits - before.kvm_exits) as f64 / transfers,
                });
            }
            ["done"] => return Ok(measured),
            ["failed", ..] => break,
            _ => (),
        }
    }
    say_threads(machine.0.id());
    machine.0.kill()?;
    let mut complaints = String::new();
    if let Some(stderr) = &mut machine.0.stderr {
        stderr.read_to_string(&mut complaints)?;
    }
    Err(format!("{command:?} did not come to its end: {complaints}").into())
}

/// Prints what each thread of a process is doing to standard error.
fn say_threads(process: u32) {
    let threads = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .flatten();
    for thread in threads {
        let file = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        eprintln!(
            "{} {} {}",
            file("comm").trim(),
            file("schedstat").trim(),
            file("stack").trim()
        );
    }
    if let Ok(Counters { exits, kvm_exits }) = Counters::read() {
        eprintln!("{exits} exits, {kvm_exits} by KVM's count");
    }
}

/// KVM's counters over all machines, of which there is one.
#[derive(Default)]
struct Counters {
    exits: u64,
    kvm_exits: u64,
}

impl Counters {
    fn read() -> Result<Self, Box<dyn Error>> {
        let counter = |name: &str| -> Result<u64, Box<dyn Error>> {
            Ok(fs::read_to_string(format!("/sys/kernel/debug/kvm/{name}"))?
                .trim()
                .parse()?)
        };
        Ok(Self {
            // MMIO that KVM deals with itself, as it does with queue notifications, is not among these.
            exits: counter("mmio_exits")? + counter("io_exits")?,
            kvm_exits: counter("exits")?,
        })
    }
}

/// The median start of a machine with this disk, or without one.
fn start(disk: &str) -> Result<Start, Box<dyn Error>> {
    let mut command = Command::new("coracle");
    command.args(["run", "--memory", "128M", "--cmdline", "-- true"]);
    command.arg(format!("--timings={TIMINGS}"));
    if !disk.is_empty() {
        command.args(["--disk", disk]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (mut first, mut init) = (Vec::new(), Vec::new());
    // The first one, which brings files into the page cache, does not count.
    for run in 0..=STARTS {
        if !command.status()?.success() {
            return Err(format!("{command:?} failed").into());
        }
        let timings: Value = serde_json::from_slice(&fs::read(TIMINGS)?)?;
        if run > 0 {
            first.push(ended(&timings, "first_guest_instruction")?);
            init.push(ended(&timings, "init_line")?);
        }
    }
    Ok(Start {
        disk: disk.rsplit('/').next().unwrap_or_default().to_owned(),
        first_kvm_run: median(first),
        init: median(init),
    })
}

/// Milliseconds from the start of the process to the end of a phase.
fn ended(timings: &Value, name: &str) -> Result<f64, Box<dyn Error>> {
    let phases = timings["phases"].as_array().ok_or("no phases")?;
    let phase = phases.iter().find(|phase| phase["phase"] == name);
    Ok(phase
        .and_then(|phase| phase["ended_ms"].as_f64())
        .ok_or(format!("no phase {name}"))?)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
