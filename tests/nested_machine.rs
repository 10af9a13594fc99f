//! `tests/nested/run` over both of its machines: what the command inside writes arrives whole, and apart, and it has a
//! terminal where the caller has one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, thread};

/// Bytes of every value without a pattern that a stream could repeat or swallow unseen.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Runs a command in this machine that fills both streams at once, writes to the disk, and is killed after a last byte
/// that no newline follows.
fn carries_everything(machine: &str, modules: &str, device: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str| scratch.path().join(name);
    let (out, err) = (noise(1, 150_001), noise(2, 100_003));
    fs::write(file("out"), &out).unwrap();
    fs::write(file("err"), &err).unwrap();
    fs::write(file("disk"), vec![0; 1 << 20]).unwrap();
    let script = format!(
        "modprobe -a {modules}; dd if=/err of={device} conv=fsync 2>/dev/null; \
         cat /out & cat /err >&2; wait; printf last; kill -9 $$"
    );
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nested/run");
    let output = Command::new(run)
        .arg(machine)
        .arg("--disk")
        .arg(file("disk"))
        .arg("--file")
        .arg(file("out"))
        .arg("--file")
        .arg(file("err"))
        .args(["--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr[output.stderr.len().saturating_sub(2000)..]);
    assert_eq!(
        output.status.code(),
        Some(128 + 9),
        "the status; stderr ends: {said}"
    );
    assert!(output.stderr == err, "stderr has other bytes; it ends: {said}");
    assert!(
        output.stdout == [&out[..], b"last"].concat(),
        "stdout has other bytes"
    );
    let disk = fs::read(file("disk")).unwrap();
    assert_eq!(disk.len(), 1 << 20, "the size of the disk");
    assert!(disk.starts_with(&err), "the disk has other bytes");
}

#[test]
fn the_amd_machine_carries_every_byte_and_the_status() {
    carries_everything("--amd", "virtio_blk", "/dev/vda");
}

#[test]
fn the_intel_machine_carries_every_byte_and_the_status() {
    carries_everything("--intel", "ata_piix sd_mod", "/dev/sda");
}

#[test]
fn a_disk_that_is_not_there_is_told_and_not_made() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = scratch.path().join("disk");
    for machine in ["--amd", "--intel"] {
        let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nested/run");
        let output = Command::new(run)
            .arg(machine)
            .arg("--disk")
            .arg(&disk)
            .args(["--", "true"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains("is no file and no block device"), "{said}");
        assert!(!disk.exists(), "{machine}");
    }
}

#[test]
fn an_initramfs_that_cannot_be_made_is_told() {
    // A kernel without the modules that belong into it.
    let cache = tempfile::tempdir().unwrap();
    let modules = cache.path().join("nested/kernel-0/lib/modules/0");
    fs::create_dir_all(&modules).unwrap();
    fs::write(modules.join("modules.dep"), "").unwrap();
    for (program, arguments, code) in [
        ("run", &["--amd", "--", "true"][..], 125),
        ("prepare", &["amd"], 1),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nested");
        let output = Command::new(folder.join(program))
            .args(arguments)
            .env("CORACLE_CACHE", cache.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{program}: {said}");
        assert!(said.contains("the kernel 0 has no module"), "{program}: {said}");
        assert!(!said.contains("No such file"), "{program}: {said}");
    }
}

/// Kills `run` when it has started the process that becomes the emulator, and before that process has asked the kernel to die
/// with `run`.
fn leaves_no_emulator(machine: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str| scratch.path().join(name);
    let setpriv = format!(
        "#!/bin/sh\n\
         echo $$ >'{0}.new' && mv '{0}.new' '{0}'\n\
         kill -KILL $PPID\n\
         while grep -q \"^PPid:[[:space:]]*$PPID$\" /proc/$$/status; do :; done\n\
         PATH=${{PATH#*:}} exec setpriv \"$@\"\n",
        file("started").display()
    );
    fs::write(file("setpriv"), setpriv).unwrap();
    fs::set_permissions(file("setpriv"), Permissions::from_mode(0o755)).unwrap();
    let path = env::var("PATH").unwrap();
    let status = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nested/run"))
        .args([machine, "--", "sleep", "100000"])
        .env("PATH", format!("{}:{path}", scratch.path().display()))
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9));
    let started = fs::read_to_string(file("started")).unwrap();
    // A process that has ended and that nobody has waited for has no program any more.
    let program = PathBuf::from("/proc").join(started.trim()).join("exe");
    let begin = Instant::now();
    while fs::read_link(&program).is_ok() {
        if begin.elapsed() > Duration::from_secs(60) {
            let _ = Command::new("kill").args(["-KILL", started.trim()]).status();
            panic!("the emulator runs on");
        }
        thread::yield_now();
    }
}

#[test]
fn no_emulator_outlives_a_run_that_is_killed_as_it_starts_one() {
    leaves_no_emulator("--amd");
    leaves_no_emulator("--intel");
}

/// Runs a command in this machine on a terminal that script(1) makes, to the end.
fn gives_a_terminal(machine: &str) {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nested/run");
    let inside = "test -t 0 && test -t 1 && test -t 2 && stty size && exit 9";
    // Nobody presses a key, and without an end the machine is stopped.
    let (keys, nobody) = io::pipe().unwrap();
    let output = Command::new("timeout")
        .args([
            "--foreground",
            "240",
            "script",
            "--quiet",
            "--return",
            "--command",
        ])
        .arg(format!("'{}' {machine} -- sh -c '{inside}'", run.display()))
        .arg("/dev/null")
        .stdin(keys)
        .output()
        .unwrap();
    drop(nobody);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(9), "the status; it said: {said}");
    assert!(said.contains("24 80"), "the terminal has another size: {said}");
}

#[test]
fn the_amd_machine_has_a_terminal_and_ends_on_it() {
    gives_a_terminal("--amd");
}

#[test]
fn the_intel_machine_has_a_terminal_and_ends_on_it() {
    gives_a_terminal("--intel");
}
