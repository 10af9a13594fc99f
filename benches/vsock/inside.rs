//! The half that runs inside of the nested machine, as root of it.

use std::error::Error;
use std::fs;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use std::{mem, thread};

use serde::{Deserialize, Serialize};

/// Given to this program when it runs inside the nested machine.
pub const FLAG: &str = "--inside-the-nested-machine";
/// Where the initrd is whose program talks to this one.
pub const LOAD: &str = "/load";

const PORT: u32 = 52;
const CID: u32 = 3;
const SOCKET: &str = "/run/guest.sock";
const MIB: usize = 1 << 20;
/// MiB that are timed, and round trips.
const COUNT: usize = 32;
const ROUND_TRIPS: usize = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Transfer {
    /// The host's program writes so many bytes at a time.
    ToGuest(usize),
    ToHost,
    RoundTrip,
}

pub const TRANSFERS: [Transfer; 4] = [
    Transfer::ToGuest(64 << 10),
    Transfer::ToGuest(4 << 10),
    Transfer::ToHost,
    Transfer::RoundTrip,
];

/// Of a MiB, or of a round trip.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    pub is_coracle: bool,
    pub transfer: Transfer,
    /// Virtual nanoseconds.
    pub time: f64,
    /// Exits that reach the program, and all of them.
    pub exits: f64,
    pub kvm_exits: f64,
    /// Switches between threads of the host.
    pub switches: f64,
    /// How much of the time the thread took that serves the device, and those of the guest's processors.
    pub device: f64,
    pub guest: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    pub measured: Vec<Measured>,
    /// A MiB through a Unix socket between two programs of the host, without any guest: two copies.
    pub host_alone: f64,
}

pub fn run() -> Result<(), Box<dyn Error>> {
    let host_alone = time_host_alone()?;
    shell("modprobe vhost_vsock; mount -t debugfs none /sys/kernel/debug")?;
    let mut measured = Vec::new();
    for is_coracle in [true, false] {
        let machine = Machine::start(is_coracle)?;
        for transfer in TRANSFERS {
            // The first one wakes everybody up, and brings what it needs into memory.
            time(&machine, transfer, 2)?;
            let row = time(&machine, transfer, COUNT)?;
            eprintln!("{transfer:?}, {}: {:.0}", machine.name, row.time);
            measured.push(row);
        }
    }
    let results = Results { measured, host_alone };
    println!("{}", serde_json::to_string(&results)?);
    Ok(())
}

fn time_host_alone() -> Result<f64, Box<dyn Error>> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    let piece = vec![0; 64 << 10];
    let begin = Instant::now();
    let reader = thread::spawn(move || {
        let (mut piece, mut left) = (vec![0; 64 << 10], COUNT * MIB);
        while left > 0 {
            left -= theirs.read(&mut piece)?;
        }
        io::Result::Ok(())
    });
    for _ in 0..COUNT * MIB / piece.len() {
        ours.write_all(&piece)?;
    }
    reader.join().map_err(|_| "the reader panicked")??;
    Ok(begin.elapsed().as_nanos() as f64 / COUNT as f64)
}

fn shell(script: &str) -> Result<(), Box<dyn Error>> {
    match Command::new("sh").args(["-e", "-c", script]).status()? {
        status if status.success() => Ok(()),
        status => Err(format!("{script} ended with {status}").into()),
    }
}

/// Has `count` MiB transferred, or as many bytes as there are to be round trips.
fn time(machine: &Machine, transfer: Transfer, count: usize) -> Result<Measured, Box<dyn Error>> {
    let mut guest = match machine.is_coracle {
        true => call_coracle()?,
        false => call_vhost()?,
    };
    let (bytes, units) = match transfer {
        Transfer::RoundTrip => (ROUND_TRIPS, ROUND_TRIPS),
        _ => (count * MIB, count),
    };
    let command = match transfer {
        Transfer::ToGuest(_) => "take",
        Transfer::ToHost => "give",
        Transfer::RoundTrip => "echo",
    };
    let mut piece = vec![0; 64 << 10];
    let before = Counters::read(machine)?;
    let begin = Instant::now();
    guest.write_all(format!("{command} {bytes}\n").as_bytes())?;
    match transfer {
        Transfer::ToGuest(size) => {
            for _ in 0..bytes / size {
                guest.write_all(&piece[..size])?;
            }
            guest.read_exact(&mut [0])?;
        }
        Transfer::ToHost => {
            let mut left = bytes;
            while left > 0 {
                match guest.read(&mut piece)? {
                    0 => return Err("the guest gives too little".into()),
                    count => left -= count,
                }
            }
        }
        Transfer::RoundTrip => {
            for _ in 0..bytes {
                guest.write_all(&[1])?;
                guest.read_exact(&mut [0])?;
            }
        }
    }
    let time = begin.elapsed().as_nanos() as f64;
    let after = Counters::read(machine)?;
    let of_one = |count: fn(&Counters) -> u64| (count(&after) - count(&before)) as f64 / units as f64;
    Ok(Measured {
        is_coracle: machine.is_coracle,
        transfer,
        time: time / units as f64,
        exits: of_one(|counters| counters.exits),
        kvm_exits: of_one(|counters| counters.kvm_exits),
        switches: of_one(|counters| counters.switches),
        device: of_one(|counters| counters.device),
        guest: of_one(|counters| counters.guest),
    })
}

fn call_coracle() -> Result<File, Box<dyn Error>> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes())?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
    }
    Ok(File::from(OwnedFd::from(stream)))
}

fn call_vhost() -> io::Result<File> {
    // SAFETY: zeroes are a valid address; the call gets its length; the descriptor is ours alone.
    unsafe {
        let mut address: libc::sockaddr_vm = mem::zeroed();
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = CID;
        address.svm_port = PORT;
        let socket = libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0);
        if socket == -1 {
            return Err(io::Error::last_os_error());
        }
        let socket = File::from(OwnedFd::from_raw_fd(socket));
        let length = size_of_val(&address) as libc::socklen_t;
        match libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) {
            0 => Ok(socket),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A guest whose program listens. It is killed when this is dropped.
struct Machine {
    process: Child,
    is_coracle: bool,
    name: &'static str,
}

impl Machine {
    fn start(is_coracle: bool) -> Result<Self, Box<dyn Error>> {
        let (mut command, name) = match is_coracle {
            true => (coracle(), "coracle"),
            false => (qemu(), "QEMU with vhost"),
        };
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut machine = Self {
            process,
            is_coracle,
            name,
        };
        let output = machine.process.stdout.take().ok_or("stdout is no pipe")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        if !lines.any(|line| line.contains("listening")) {
            return Err(format!("the guest of {name} ends").into());
        }
        // A serial port that nobody reads would stop its guest.
        thread::spawn(move || lines.for_each(drop));
        Ok(machine)
    }

    /// How long the threads of some names have run, in nanoseconds. That of vhost is the kernel's, which the host has no other of.
    fn time_of(&self, names: &[&str]) -> Result<u64, Box<dyn Error>> {
        let mut sum = 0;
        let is_number = |name: &std::ffi::OsString| name.to_string_lossy().parse::<u32>().is_ok();
        let processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
        for process in processes.filter(is_number) {
            let threads = fs::read_dir(Path::new("/proc").join(process).join("task"));
            for thread in threads.into_iter().flatten().flatten() {
                let file = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
                if names.iter().any(|name| file("comm").starts_with(name)) {
                    let time = file("schedstat");
                    sum += time.split(' ').next().unwrap_or_default().parse::<u64>()?;
                }
            }
        }
        Ok(sum)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both are errors only of a process that has been waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn arguments() -> String {
    format!("sockets {PORT}")
}

fn coracle() -> Command {
    let mut command = Command::new("coracle");
    command
        .args([
            "run",
            "--memory",
            "256M",
            "--initrd",
            LOAD,
            "--cmdline",
            &arguments(),
        ])
        .args(["--vsock", &format!("{SOCKET},cid={CID}")]);
    command
}

fn qemu() -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-M",
            "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,acpi=off",
        ])
        .args(["-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults"])
        .args([
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
        ])
        .args([
            "-name",
            "guest,debug-threads=on",
            "-global",
            "virtio-mmio.force-legacy=false",
        ])
        .args(["-kernel", "/guest-images/out/vmlinux", "-initrd", LOAD])
        .args([
            "-append",
            &format!("console=ttyS0 panic=-1 reboot=t quiet {}", arguments()),
        ])
        .args(["-device", &format!("vhost-vsock-device,guest-cid={CID}")]);
    command
}

/// KVM's counters over all machines, of which there is one, and the kernel's of switches and of time.
struct Counters {
    exits: u64,
    kvm_exits: u64,
    switches: u64,
    device: u64,
    guest: u64,
}

impl Counters {
    fn read(machine: &Machine) -> Result<Self, Box<dyn Error>> {
        let counter = |name: &str| -> Result<u64, Box<dyn Error>> {
            Ok(fs::read_to_string(format!("/sys/kernel/debug/kvm/{name}"))?
                .trim()
                .parse()?)
        };
        let statistics = fs::read_to_string("/proc/stat")?;
        let switches = statistics.lines().find_map(|line| line.strip_prefix("ctxt "));
        Ok(Self {
            // MMIO that KVM deals with itself, as it does with queue notifications, is not among these.
            exits: counter("mmio_exits")? + counter("io_exits")?,
            kvm_exits: counter("exits")?,
            switches: switches.ok_or("the kernel does not count switches")?.parse()?,
            device: machine.time_of(&["vsock", "vhost-"])?,
            guest: machine.time_of(&["vcpu", "CPU "])?,
        })
    }
}
