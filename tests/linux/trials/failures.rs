//! A disk that fails on the host: the guest sees an I/O error for what failed and for nothing else, `coracle` says what and
//! why, another disk of the guest goes on, and the guest ends as it would have.

use std::fs::OpenOptions;
use std::path::Path;

use crate::images::{initrd_with_records, run, scratch, sparse};
use crate::place;
use crate::run::{Coracle, Finished};

crate::group!["failures":
    a_full_host_fails_the_writes_that_it_cannot_store_and_no_other,
    a_bad_block_of_the_host_fails_the_reads_of_it_and_the_flush_after_a_write,
    an_image_that_is_cut_short_fails_the_reads_past_its_end,
];

/// Bytes of a disk here, of 512 blocks of 4 KiB.
const SIZE: u64 = 2 << 20;

/// The other disk of the guest has nothing to complain of.
fn assert_the_other_disk_goes_on(finished: &Finished, other: &Path) {
    finished
        .assert_code(0)
        .assert_prints("/dev/vdb: 512 blocks; cannot write none; flushed\n")
        .assert_prints("/dev/vdb: 512 blocks; cannot read none; written are 0-511\n");
    assert!(
        !finished.stderr.contains(other.to_str().unwrap()),
        "there is nothing wrong with that disk\n{finished}"
    );
}

const BOTH_ON_THE_OTHER: &str = "/records blocks write /dev/vdb; /records blocks read /dev/vdb";

/// The file system is one that only `coracle` sees: it has mounts of its own.
fn a_full_host_fails_the_writes_that_it_cannot_store_and_no_other() {
    let scratch = scratch();
    let full = scratch.path().join("full");
    let full = full.to_str().unwrap();
    let other = sparse(&scratch, "other", SIZE);
    let on_the_host = format!(
        "mkdir \"$1\" && mount -t tmpfs -o size=1m none \"$1\" && truncate -s {SIZE} \"$1/image\" && shift && exec \"$@\""
    );
    let finished = Coracle::program("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .args([&on_the_host, "sh", full])
        .args([place::coracle().as_os_str(), "run".as_ref()])
        .args(["--initrd", initrd_with_records(&scratch).to_str().unwrap()])
        .args(["--disk", &format!("{full}/image")])
        .args(["--disk", other.to_str().unwrap()])
        .script(&format!(
            "/records blocks write /dev/vda; /records blocks read /dev/vda; {BOTH_ON_THE_OTHER}"
        ))
        .end();
    assert_the_other_disk_goes_on(&finished, &other);
    // 1 MiB is 256 blocks.
    finished
        .assert_prints("/dev/vda: 512 blocks; cannot write 256-511; flushed\n")
        .assert_prints("/dev/vda: 512 blocks; cannot read none; written are 0-255\n")
        .assert_explains(&format!(
            "disk \"{full}/image\": write at sector 2048, 4096 bytes: No space left on device"
        ));
}

/// A device-mapper device on a loop device on a file, gone when dropped.
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

/// What the host's page cache took and could not write is known only when it is flushed.
fn a_bad_block_of_the_host_fails_the_reads_of_it_and_the_flush_after_a_write() {
    let scratch = scratch();
    let other = sparse(&scratch, "other", SIZE);
    // Blocks 100 and 101.
    let bad = match BadDevice::make(&sparse(&scratch, "lower", SIZE), 800..816) {
        Ok(bad) => bad,
        Err(why) if place::is_inside() => panic!("{why}"),
        Err(why) => return eprintln!("not tested here: no device-mapper: {why}"),
    };
    let finished = Coracle::run()
        .args(["--initrd", initrd_with_records(&scratch).to_str().unwrap()])
        .args(["--disk", &bad.path(), "--disk", other.to_str().unwrap()])
        .script(&format!(
            "/records blocks read /dev/vda; /records blocks write /dev/vda; {BOTH_ON_THE_OTHER}"
        ))
        .end();
    assert_the_other_disk_goes_on(&finished, &other);
    let path = bad.path();
    finished
        .assert_prints("/dev/vda: 512 blocks; cannot read 100-101; written are none\n")
        .assert_prints("/dev/vda: 512 blocks; cannot write none; flush: Input/output error (os error 5)\n")
        .assert_explains(&format!(
            "disk {path:?}: read at sector 800, 4096 bytes: Input/output error"
        ))
        .assert_explains(&format!(
            "disk {path:?}: read at sector 808, 4096 bytes: Input/output error"
        ))
        .assert_explains(&format!("disk {path:?}: flush"));
}

fn an_image_that_is_cut_short_fails_the_reads_past_its_end() {
    let scratch = scratch();
    let cut = sparse(&scratch, "cut", SIZE);
    let other = sparse(&scratch, "other", SIZE);
    let mut running = Coracle::run()
        .args(["--initrd", initrd_with_records(&scratch).to_str().unwrap()])
        .args([
            "--disk",
            cut.to_str().unwrap(),
            "--disk",
            other.to_str().unwrap(),
        ])
        .with_input()
        .script(&format!(
            "/records blocks write /dev/vda; echo is whole; read; /records blocks read /dev/vda; {BOTH_ON_THE_OTHER}"
        ))
        .start();
    running.wait_for("is whole");
    // In the middle of block 300.
    let file = OpenOptions::new().write(true).open(&cut).unwrap();
    file.set_len(300 * 4096 + 2048).unwrap();
    running.type_in("\n");
    let finished = running.end();
    assert_the_other_disk_goes_on(&finished, &other);
    finished
        .assert_prints("/dev/vda: 512 blocks; cannot write none; flushed\n")
        .assert_prints("/dev/vda: 512 blocks; cannot read 300-511; written are 0-299\n")
        .assert_explains(&format!("disk {cut:?}: read at sector 2400, 4096 bytes: "));
}
