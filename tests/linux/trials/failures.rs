//! A disk that fails on the host: the guest sees an I/O error for the blocks that failed and for no others, `coracle` says
//! what failed and why, and the guest's other disk keeps working.

use std::fs::OpenOptions;
use std::path::Path;

use crate::images::{initrd_with_records, run, scratch, sparse};
use crate::place;
use crate::run::{Coracle, Finished};

crate::group!["failures":
    a_full_host_fails_the_writes_that_it_cannot_store_and_no_other,
    a_full_temporary_directory_fails_what_an_ephemeral_disk_cannot_keep_and_no_other,
    an_image_that_is_cut_short_fails_the_reads_past_its_end;
    no_device_mapper() =>
    a_bad_block_of_the_host_fails_the_reads_of_it_and_the_flush_after_a_write,
    past_the_hosts_cache_a_bad_block_fails_the_writes_to_it_too,
];

/// Only root makes disks with bad blocks.
fn no_device_mapper() -> Option<&'static str> {
    // SAFETY: a system call without arguments.
    let is_root = unsafe { libc::geteuid() } == 0;
    (!is_root).then_some("only root may use device-mapper")
}

/// Bytes of each disk: 128 blocks of 4 KiB.
const SIZE: u64 = 512 << 10;

const ENGINES: [&str; 2] = ["sync", "uring"];

/// Asserts that the guest used its other disk without an error.
fn assert_the_other_disk_goes_on(finished: &Finished, other: &Path) {
    finished
        .assert_code(0)
        .assert_prints("/dev/vdb: 128 blocks; cannot write none; flushed\n")
        .assert_prints("/dev/vdb: 128 blocks; cannot read none; written are 0-127\n");
    assert!(
        !finished.stderr.contains(other.to_str().unwrap()),
        "there is nothing wrong with that disk\n{finished}"
    );
}

const BOTH_ON_THE_OTHER: &str = "/records blocks write /dev/vdb; /records blocks read /dev/vdb";

/// A run of `coracle` on a host with a file system of 256 KiB at `full` that holds a sparse `image`. Only that run sees
/// the file system, because it has a mount namespace of its own.
fn on_a_full_host(full: &str) -> Coracle {
    let on_the_host = format!(
        "mkdir \"$1\" && mount -t tmpfs -o size=256k none \"$1\" && truncate -s {SIZE} \"$1/image\" && shift && exec \"$@\""
    );
    Coracle::program("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .args([&on_the_host, "sh", full, "env", &format!("TMPDIR={full}")])
        .args([place::coracle().as_os_str(), "run".as_ref()])
}

fn a_full_host_fails_the_writes_that_it_cannot_store_and_no_other() {
    ENGINES.into_iter().for_each(write_to_a_full_host);
}

fn write_to_a_full_host(engine: &str) {
    let scratch = scratch();
    let full = scratch.path().join("full");
    let full = full.to_str().unwrap();
    let other = sparse(&scratch, "other", SIZE);
    let finished = on_a_full_host(full)
        .args(["--initrd", initrd_with_records(&scratch).to_str().unwrap()])
        .args(["--disk", &format!("{full}/image,engine={engine}")])
        .args(["--disk", other.to_str().unwrap()])
        .script(&format!(
            "/records blocks write /dev/vda; /records blocks read /dev/vda; {BOTH_ON_THE_OTHER}"
        ))
        .end();
    assert_the_other_disk_goes_on(&finished, &other);
    // 256 KiB are 64 blocks.
    finished
        .assert_prints("/dev/vda: 128 blocks; cannot write 64-127; flushed\n")
        .assert_prints("/dev/vda: 128 blocks; cannot read none; written are 0-63\n")
        .assert_explains(&format!(
            "disk \"{full}/image\": write at sector 512, 4096 bytes: No space left on device"
        ));
}

fn a_full_temporary_directory_fails_what_an_ephemeral_disk_cannot_keep_and_no_other() {
    let scratch = scratch();
    let full = scratch.path().join("full");
    let full = full.to_str().unwrap();
    let base = sparse(&scratch, "base", SIZE);
    let other = sparse(&scratch, "other", SIZE);
    let finished = on_a_full_host(full)
        .args(["--initrd", initrd_with_records(&scratch).to_str().unwrap()])
        .args(["--disk", &format!("{},ephemeral", base.display())])
        .args(["--disk", other.to_str().unwrap()])
        .script(&format!(
            "/records blocks write /dev/vda; /records blocks read /dev/vda; {BOTH_ON_THE_OTHER}"
        ))
        .end();
    assert_the_other_disk_goes_on(&finished, &other);
    let console = finished.console();
    let first_failed = console
        .split_once("/dev/vda: 128 blocks; cannot write ")
        .and_then(|(_, ranges)| ranges.split_once('-'))
        .and_then(|(first, _)| first.parse::<u64>().ok())
        .unwrap_or_else(|| panic!("no write failed\n{finished}"));
    finished
        .assert_prints(&format!("cannot write {first_failed}-127; "))
        .assert_prints(&format!(
            "/dev/vda: 128 blocks; cannot read none; written are 0-{}\n",
            first_failed - 1
        ))
        .assert_explains(&format!(
            "disk {base:?}: write at sector {}, 4096 bytes: ",
            first_failed * 8
        ))
        .assert_explains("No space left on device");
}

/// A device-mapper device on a loop device on a file. Dropping it removes both devices.
struct BadDevice {
    name: String,
    lower: String,
}

impl BadDevice {
    /// `bad` are the sectors that fail.
    fn make(file: &Path, bad: std::ops::Range<u64>) -> Result<Self, String> {
        if place::is_inside() {
            run("modprobe", &["loop"])?;
            run("modprobe", &["dm-mod"])?;
        }
        let lower = run("losetup", &["-f"])?.trim().to_owned();
        run("losetup", &[&lower, file.to_str().unwrap()])?;
        let device = Self {
            name: format!("coracle-bad-{}", std::process::id()),
            lower,
        };
        let lower = &device.lower;
        let (begin, end) = (bad.start, bad.end);
        let table = format!(
            "0 {begin} linear {lower} 0\n{begin} {} error\n{end} {} linear {lower} {end}",
            end - begin,
            SIZE / 512 - end
        );
        let create = format!(
            "printf '{table}\\n' | DM_DISABLE_UDEV=1 /sbin/dmsetup create {}",
            device.name
        );
        run("sh", &["-c", &create])?;
        Ok(device)
    }

    fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }
}

impl Drop for BadDevice {
    fn drop(&mut self) {
        let remove = format!("DM_DISABLE_UDEV=1 /sbin/dmsetup remove {}", self.name);
        let removed = run("sh", &["-c", &remove]);
        for result in [removed, run("losetup", &["-d", &self.lower])] {
            if let Err(why) = result {
                eprintln!("{why}");
            }
        }
    }
}

/// The host's page cache takes the write; that the disk refuses it shows only at the flush.
fn a_bad_block_of_the_host_fails_the_reads_of_it_and_the_flush_after_a_write() {
    for engine in ENGINES {
        let (finished, path) = use_a_bad_device(&format!("engine={engine}"));
        finished
            .assert_prints(
                "/dev/vda: 128 blocks; cannot write none; flush: Input/output error (os error 5)\n",
            )
            .assert_explains(&format!("disk {path:?}: flush: Input/output error"));
    }
}

fn past_the_hosts_cache_a_bad_block_fails_the_writes_to_it_too() {
    for engine in ENGINES {
        let (finished, path) = use_a_bad_device(&format!("engine={engine},cache=direct"));
        finished
            .assert_prints("/dev/vda: 128 blocks; cannot write 100-101; flushed\n")
            .assert_explains(&format!(
                "disk {path:?}: write at sector 808, 4096 bytes: Input/output error"
            ));
    }
}

/// A guest that reads all of a disk, writes all of it, and does that to another; and the disk's path on the host.
fn use_a_bad_device(options: &str) -> (Finished, String) {
    let scratch = scratch();
    let other = sparse(&scratch, "other", SIZE);
    // Blocks 100 and 101.
    let bad = BadDevice::make(&sparse(&scratch, "lower", SIZE), 800..816).unwrap();
    let finished = Coracle::run()
        .args(["--initrd", initrd_with_records(&scratch).to_str().unwrap()])
        .args(["--disk", &format!("{},{options}", bad.path())])
        .args(["--disk", other.to_str().unwrap()])
        .script(&format!(
            "/records blocks read /dev/vda; /records blocks write /dev/vda; {BOTH_ON_THE_OTHER}"
        ))
        .end();
    assert_the_other_disk_goes_on(&finished, &other);
    let path = bad.path();
    finished
        .assert_prints("/dev/vda: 128 blocks; cannot read 100-101; written are none\n")
        .assert_explains(&format!(
            "disk {path:?}: read at sector 800, 4096 bytes: Input/output error"
        ))
        .assert_explains(&format!(
            "disk {path:?}: read at sector 808, 4096 bytes: Input/output error"
        ));
    (finished, path)
}

fn an_image_that_is_cut_short_fails_the_reads_past_its_end() {
    ENGINES.into_iter().for_each(cut_short);
}

fn cut_short(engine: &str) {
    let scratch = scratch();
    let cut = sparse(&scratch, "cut", SIZE);
    let other = sparse(&scratch, "other", SIZE);
    let mut running = Coracle::run()
        .args(["--initrd", initrd_with_records(&scratch).to_str().unwrap()])
        .args(["--disk", &format!("{},engine={engine}", cut.display())])
        .args(["--disk", other.to_str().unwrap()])
        .with_input()
        .script(&format!(
            "/records blocks write /dev/vda; echo is whole; read; /records blocks read /dev/vda; {BOTH_ON_THE_OTHER}"
        ))
        .start();
    running.wait_for("is whole");
    // In the middle of block 70.
    let file = OpenOptions::new().write(true).open(&cut).unwrap();
    file.set_len(70 * 4096 + 2048).unwrap();
    running.type_in("\n");
    let finished = running.end();
    assert_the_other_disk_goes_on(&finished, &other);
    finished
        .assert_prints("/dev/vda: 128 blocks; cannot write none; flushed\n")
        .assert_prints("/dev/vda: 128 blocks; cannot read 70-127; written are 0-69\n")
        .assert_explains(&format!("disk {cut:?}: read at sector 560, 4096 bytes: "));
}
