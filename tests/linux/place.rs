//! Where the trials run, and the files and packages that they need.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;

use crate::machines::{self, INSIDE, Machine};

/// `full` in this variable makes trials do as much in the nested machine as on a host whose KVM runs Linux.
const EXTENT: &str = "CORACLE_LINUX_TESTS";

/// Exit code of timeout(1) when the time was up, and of tests/nested/run when the machine itself failed.
const TIMED_OUT: i32 = 124;
const MACHINE_FAILED: i32 = 125;
/// Exit code of this program inside when trials have failed.
const TRIALS_FAILED: i32 = 101;

/// Seconds after which the nested machine is stopped. Each trial gives up long before. The full amounts take
/// longer.
const MACHINE_PATIENCE: u32 = 2700;
const MACHINE_PATIENCE_FULL: u32 = 10_800;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Images that only trials of kernel formats need, in guest-images/out.
pub const FORMATS: [&str; 7] = [
    "bzImage-gzip",
    "bzImage-xz",
    "bzImage-zstd",
    "bzImage-lz4",
    "bzImage-lzma",
    "bzImage-bzip2",
    "vmlinux-nopvh",
];

/// Programs with which trials make disks, make them fail, and check them after a guest has run.
const DISK_PROGRAMS: [&str; 4] = ["/sbin/e2fsck", "/sbin/debugfs", "/sbin/mke2fs", "/sbin/dmsetup"];

/// What reads the journal of a guest with systemd.
pub const JOURNALCTL: &str = "/usr/bin/journalctl";

pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Whether trials run with the full amounts of data, which takes long in a nested machine.
pub fn is_full() -> bool {
    !is_inside() || is_full_asked()
}

pub fn is_full_asked() -> bool {
    env::var_os(EXTENT).is_some_and(|extent| extent == "full")
}

/// The program under test.
pub fn coracle() -> PathBuf {
    if is_inside() {
        "coracle".into()
    } else {
        target_directory().join("x86_64-unknown-linux-gnu/release/coracle")
    }
}

/// The program that guests run to test their disks.
pub fn records() -> PathBuf {
    if is_inside() {
        "/records".into()
    } else {
        target_directory().join("x86_64-unknown-linux-gnu/release/coracle-records")
    }
}

/// The program that guests run to tell what their processors say of themselves.
pub fn processor() -> PathBuf {
    if is_inside() {
        "/processor".into()
    } else {
        target_directory().join("x86_64-unknown-linux-gnu/release/coracle-processor")
    }
}

/// The program that guests run first, in init's place, to take most of the memory.
pub fn memory() -> PathBuf {
    if is_inside() {
        "/memory".into()
    } else {
        target_directory().join("x86_64-unknown-linux-gnu/release/coracle-memory")
    }
}

/// The program that guests run to talk to programs of the host.
pub fn sockets() -> PathBuf {
    if is_inside() {
        "/sockets".into()
    } else {
        target_directory().join("x86_64-unknown-linux-gnu/release/coracle-sockets")
    }
}

/// The tests of tests/kvm as a program, without symbols.
pub fn kvm_tests() -> PathBuf {
    if is_inside() {
        "/kvm-tests".into()
    } else {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("kvm-tests")
    }
}

/// This program, without symbols.
fn linux_tests() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("linux-tests")
}

/// Cargo's target directory, found as tests/nested/run finds it.
fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from)
}

/// The directory of what guest-images/ built.
pub fn guest_images() -> PathBuf {
    if is_inside() {
        "/guest-images/out".into()
    } else {
        Path::new(ROOT).join("guest-images/out")
    }
}

/// Debian's newest series of kernels beside that of its release, and where it is.
const NEWER_SERIES: &str = "6.12";
const NEWER: &str = "newer";

/// The directory of Debian's kernel `vmlinuz`, its guests' `stock-initrd`, and their disks `fio.ext4` and `empty.qcow2`.
pub fn stock() -> PathBuf {
    if is_inside() {
        "/stock".into()
    } else {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("stock")
    }
}

/// The same directory of Debian's kernel of the series [`NEWER_SERIES`], without disks.
pub fn newer_stock() -> PathBuf {
    stock().join(NEWER)
}

/// What these kernels are told where nothing of them is to be seen: their messages, the tests of their own cryptography and the check of
/// the certificates that signed them would be most of what their start takes.
pub const STOCK_QUICKLY: &str = "quiet cryptomgr.notests initcall_blacklist=load_system_certificate_list";

/// The disk of tests/nested/systemd-disk, of which `stock` has the kernel and the initrd.
pub fn systemd_disk() -> PathBuf {
    match machines::current() {
        None => stock().join("systemd.ext4"),
        Some(Machine::Amd(_)) => "/dev/vda".into(),
        Some(Machine::Intel | Machine::IntelAlone) => "/dev/sda".into(),
    }
}

/// Whether this host's KVM runs Linux.
pub fn runs_linux() -> bool {
    Command::new(coracle())
        .arg("doctor")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Makes what is missing for the trials of the groups for which `wanted` is true.
pub fn prepare(wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    let root = Path::new(ROOT);
    do_or_say(Command::new(root.join("guest-images/build")))?;
    // Cargo built a `coracle` for this test without optimizations. The trials run the release build, as users do. In one call
    // the packages would share the features of their dependencies, and `coracle` would be another build than that of
    // `cargo build --release`.
    for package in ["coracle", "coracle-records"] {
        let mut cargo = cargo();
        cargo.args(["build", "--release", "--quiet", "--bins", "--package", package]);
        cargo.arg("--manifest-path").arg(root.join("Cargo.toml"));
        do_or_say(cargo)?;
    }
    let ours = env::current_exe().map_err(|why| format!("cannot find this program: {why}"))?;
    strip(&ours, &linux_tests())?;
    if !DISK_PROGRAMS.iter().all(|program| Path::new(program).exists()) {
        need(&["e2fsprogs", "dmsetup"])?;
    }
    if wanted("hardware") || wanted("confinement") {
        make_kvm_tests()?;
    }
    if ["kernels", "load", "named"].iter().any(|group| wanted(group)) {
        let mut stock_kernel = Command::new(root.join("tests/nested/stock-kernel"));
        stock_kernel.arg(stock());
        do_or_say(stock_kernel)?;
    }
    if wanted("kernels") {
        let mut newer = Command::new(root.join("tests/nested/stock-kernel"));
        newer.arg(newer_stock()).arg(NEWER_SERIES);
        do_or_say(newer)?;
    }
    let load = wanted("load") && (runs_linux() || is_full_asked());
    if load {
        let mut fio = Command::new(root.join("tests/nested/fio-disk"));
        fio.arg(stock());
        do_or_say(fio)?;
    }
    if load {
        need(&["qemu-utils"])?;
        let mut image = Command::new("qemu-img");
        image.args(["create", "-q", "-f", "qcow2"]);
        image.arg(stock().join("empty.qcow2")).arg("128M");
        do_or_say(image)?;
    }
    if wanted("systemd") && (runs_linux() || is_full_asked()) {
        let mut systemd = Command::new(root.join("tests/nested/systemd-disk"));
        systemd.args([stock(), coracle()]);
        do_or_say(systemd)?;
        if !Path::new(JOURNALCTL).exists() {
            need(&["systemd"])?;
        }
    }
    if wanted("kernels") {
        let mut formats = Command::new(root.join("guest-images/build"));
        formats.arg("formats");
        do_or_say(formats)?;
    }
    Ok(())
}

/// Installs Debian packages, if they are missing.
pub fn need(packages: &[&str]) -> Result<(), String> {
    let mut need = Command::new(Path::new(ROOT).join("guest-images/need"));
    need.args(packages);
    do_or_say(need)
}

fn do_or_say(mut command: Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} failed: {status}")),
        Err(why) => Err(format!("cannot run {command:?}: {why}")),
    }
}

/// Copies a program without what only a debugger needs, which would be most of what nested machines have to unpack.
fn strip(program: &Path, to: &Path) -> Result<(), String> {
    let mut strip = Command::new("strip");
    strip.arg("-o").args([to, program]);
    do_or_say(strip)
}

/// Builds the tests of tests/kvm, with the features of dependencies that `cargo test --workspace` has built them with.
fn make_kvm_tests() -> Result<(), String> {
    let mut cargo = cargo();
    cargo.args(["test", "--no-run", "--quiet", "--workspace", "--test", "kvm"]);
    cargo.args(["--message-format", "json", "--manifest-path"]);
    cargo.arg(Path::new(ROOT).join("Cargo.toml"));
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|why| format!("cannot run {cargo:?}: {why}"))?;
    if !output.status.success() {
        return Err(format!("{cargo:?} failed: {}", output.status));
    }
    let program = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        // Cargo builds `coracle` for them, too.
        .filter(|message| message["target"]["name"] == "kvm")
        .find_map(|message| Some(message["executable"].as_str()?.to_owned()))
        .ok_or_else(|| format!("{cargo:?} names no program"))?;
    strip(Path::new(&program), &kvm_tests())
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs this program with these arguments inside these machines at once, of which one may write to the disk with systemd.
pub fn run_inside(
    machines: &[Machine],
    arguments: &[OsString],
    has_systemd: impl Fn(Machine) -> bool,
) -> ExitCode {
    eprintln!(
        "Linux guests: this host's KVM does not run Linux, so they run in {} nested machines",
        machines.len()
    );
    let failed = thread::scope(|scope| {
        let machines: Vec<_> = machines
            .iter()
            .map(|&machine| {
                let has_systemd = has_systemd(machine);
                scope.spawn(move || run_share(machine, arguments, has_systemd))
            })
            .collect();
        // Each machine's output is printed when it has ended, so that their lines are not mixed.
        machines
            .into_iter()
            .map(|machine| machine.join())
            .filter(|ended| !matches!(ended, Ok(true)))
            .count()
    });
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs a machine's share of the trials, and prints their output when the machine has ended.
fn run_share(share: Machine, arguments: &[OsString], has_systemd: bool) -> bool {
    let patience = match env::var(EXTENT).as_deref() {
        Ok("full") => MACHINE_PATIENCE_FULL,
        _ => MACHINE_PATIENCE,
    };
    // A trial of the formats is not among those of the Intel machine, which is slow to load files.
    let formats = FORMATS.iter().filter(|_| share != Machine::Intel);
    let images = formats.map(|name| (guest_images().join(name), format!("/guest-images/out/{name}")));
    let stocked = [
        "vmlinuz",
        "stock-initrd",
        "fio.ext4",
        "empty.qcow2",
        "newer/vmlinuz",
        "newer/stock-initrd",
    ];
    let of_systemd: &[_] = match has_systemd {
        true => &["systemd-kernel", "systemd-initrd"],
        false => &[],
    };
    let stocked = stocked.iter().chain(of_systemd);
    let stocked = stocked.map(|name| (stock().join(name), format!("/stock/{name}")));
    // The tests of tests/kvm look for `coracle` where Cargo puts it for them. Here it is the release build.
    let kvm_tests = [
        (kvm_tests(), "/kvm-tests".into()),
        (coracle(), env!("CARGO_BIN_EXE_coracle").into()),
    ];
    let mut options = put(images.chain(stocked).chain(kvm_tests));
    if has_systemd {
        let programs = [(JOURNALCTL.into(), JOURNALCTL.into())].into_iter();
        options.extend(put(programs));
        options.extend(["--disk".into(), systemd_disk().into_os_string()]);
    }
    let mut machine = machine(share, Some(patience), &options, arguments);
    let begin = Instant::now();
    let output = match machine.output() {
        Ok(output) => output,
        Err(why) => {
            eprintln!("Linux guests: cannot run {machine:?}: {why}");
            return false;
        }
    };
    // In one piece, because other machines print theirs at any time.
    let seconds = begin.elapsed().as_secs();
    let said = [
        format!("\nLinux guests on {share}, which ended after {seconds} s:\n").into(),
        output.stderr,
        output.stdout,
    ]
    .concat();
    let mut said = String::from_utf8_lossy(&said).into_owned();
    let ended = match output.status.code() {
        Some(0) => "",
        Some(TIMED_OUT) => &format!("{share} did not end within {patience} s"),
        Some(MACHINE_FAILED) => &format!("{share} failed"),
        Some(TRIALS_FAILED) => &format!("trials failed on {share}"),
        _ => &format!("{share} ended otherwise: {}", output.status),
    };
    if !ended.is_empty() {
        said += &format!("Linux guests: {ended}\n");
    }
    eprint!("{said}");
    output.status.success()
}

/// The options of tests/nested/run that copy these files into the machine: each is a path here and a path inside.
fn put(files: impl Iterator<Item = (PathBuf, String)>) -> Vec<OsString> {
    files
        // Files that no wanted trial needs were not made.
        .filter(|(outside, _)| outside.exists())
        .flat_map(|(outside, inside)| {
            let mut file = outside.into_os_string();
            file.push(":");
            file.push(inside);
            ["--file".into(), file]
        })
        .collect()
}

/// A nested machine that runs this program with these arguments, for its share of the trials. Its clock counts instructions,
/// so that a busy host does not make a trial time out. With the full amounts it has this host's clock, because on the other
/// one the loads would take hours instead of minutes.
pub fn machine(
    share: Machine,
    patience: Option<u32>,
    options: &[OsString],
    arguments: &[OsString],
) -> Command {
    let programs = DISK_PROGRAMS.map(|program| {
        let program = PathBuf::from(program);
        let inside = program.display().to_string();
        (fs::canonicalize(&program).unwrap_or(program), inside)
    });
    let ours = [
        (linux_tests(), "/linux-tests".into()),
        (records(), "/records".into()),
        (processor(), "/processor".into()),
        (memory(), "/memory".into()),
        (sockets(), "/sockets".into()),
    ];
    let files = programs.into_iter().chain(ours);
    let extent = env::var(EXTENT).unwrap_or_default();
    let run = Path::new(ROOT).join("tests/nested/run");
    let mut machine = match patience {
        Some(seconds) => {
            let mut timeout = Command::new("timeout");
            timeout.args(["--foreground", &seconds.to_string()]).arg(run);
            timeout
        }
        None => Command::new(run),
    };
    machine.arg(share.option());
    match extent.as_str() {
        "full" => machine.args(["--cpus", "1"]),
        _ => machine.arg("--deterministic"),
    };
    machine.args(options).args(put(files));
    machine
        .args([
            "--",
            "env",
            &format!("{INSIDE}={}", share.name()),
            &format!("{EXTENT}={extent}"),
            "/linux-tests",
        ])
        .args(arguments)
        .stdin(Stdio::null());
    machine
}
