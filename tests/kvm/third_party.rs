//! A driver that somebody else wrote agrees with the host about every byte: driver/ is a guest around it.

use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::NamedTempFile;

use crate::support::{Coracle, Kernel, Random, need_kvm};

/// What the guest is going to do: its own source.
#[path = "driver/src/plan.rs"]
mod plan;

use plan::{ENTROPY, IN_FLIGHT, PAST_THE_END, READ, SECTOR, SECTORS, WRITTEN, checksum, fill};

/// The guest, which is built on first use. It has a target directory of its own, so that it does not wait for this run of
/// cargo.
fn guest() -> Kernel {
    static GUEST: OnceLock<Vec<u8>> = OnceLock::new();
    let build = || {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("third-party-driver");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--target-dir"])
            .arg(&target)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kvm/driver"))
            // These variables would override the guest's own settings.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .status();
        assert!(
            built.is_ok_and(|status| status.success()),
            "the guest can be built"
        );
        let program = target.join("x86_64-unknown-linux-gnu/debug/third-party-driver");
        fs::read(program).expect("cargo built the guest")
    };
    // The file is removed when its last user drops it.
    Kernel::new(GUEST.get_or_init(build))
}

/// A disk's contents as the host expects them.
struct Disk {
    id: &'static str,
    read_only: bool,
    file: NamedTempFile,
    bytes: Vec<u8>,
}

impl Disk {
    /// Filled with noise.
    fn new(id: &'static str, read_only: bool, seed: u64) -> Self {
        let mut random = Random(seed);
        let bytes: Vec<u8> = (0..SECTORS as usize * SECTOR)
            .map(|_| random.next() as u8)
            .collect();
        let file = NamedTempFile::new().expect("a temporary file can be made");
        fs::write(file.path(), &bytes).expect("a temporary file can be written");
        Self {
            id,
            read_only,
            file,
            bytes,
        }
    }

    fn argument(&self) -> String {
        let read_only = if self.read_only { ",ro" } else { "" };
        format!("{}{read_only},id={}", self.file.path().display(), self.id)
    }

    fn at(&mut self, sectors: &Range<u64>) -> &mut [u8] {
        &mut self.bytes[sectors.start as usize * SECTOR..sectors.end as usize * SECTOR]
    }

    /// Makes write number `write`, and returns the result that the driver must report.
    fn write(&mut self, write: usize, sectors: &Range<u64>) -> Result<(), &'static str> {
        if self.read_only {
            return Err("IoError");
        }
        fill(self.at(sectors), write as u64, sectors.start);
        Ok(())
    }

    /// Follows the plan, and returns what the guest must print.
    fn exercise(&mut self) -> String {
        let mut said = String::new();
        let mode = if self.read_only { "read-only" } else { "read-write" };
        let _ = writeln!(said, "disk {}: {SECTORS} sectors, {mode}", self.id);
        for sectors in READ {
            let _ = writeln!(said, "read {sectors:?}: {:016x}", checksum(self.at(&sectors)));
        }
        for sectors in PAST_THE_END {
            let _ = writeln!(
                said,
                "past the end {sectors:?}: read Err(IoError), written Err(IoError)"
            );
        }
        for (write, sectors) in WRITTEN.iter().enumerate() {
            let told = match self.write(write, sectors) {
                Ok(()) => "Ok(())",
                Err(_) => "Err(IoError)",
            };
            let _ = writeln!(said, "write {sectors:?}: {told}");
            let _ = writeln!(said, "read {sectors:?}: {:016x}", checksum(self.at(sectors)));
        }
        for round in 0..2 {
            let _ = writeln!(said, "one more than {IN_FLIGHT}: Err(QueueFull)");
            for slot in 0..IN_FLIGHT {
                let sectors = plan::in_flight(slot);
                let (verb, told) = match slot % 2 == round {
                    true => ("written", self.write(WRITTEN.len() + slot, &sectors)),
                    false => ("read", Ok(())),
                };
                let told = match told {
                    Ok(()) => format!("{:016x}", checksum(self.at(&sectors))),
                    Err(error) => error.to_string(),
                };
                let _ = writeln!(said, "{verb} among others {sectors:?}: {told}");
            }
        }
        let _ = writeln!(said, "flush: Ok(())\nopened again");
        let _ = writeln!(
            said,
            "read {:?}: {:016x}",
            WRITTEN[0],
            checksum(self.at(&WRITTEN[0]))
        );
        said
    }
}

#[test]
fn a_third_partys_drivers_read_and_write_what_the_host_does() {
    need_kvm();
    for engine in ["sync", "uring"] {
        let mut disks = [
            Disk::new("oar", false, 1),
            Disk::new("twenty-bytes-of-a-id", true, 2),
        ];
        let mut coracle = Coracle::run(&guest());
        for disk in &disks {
            coracle = coracle.args(&["--disk", &format!("{},engine={engine}", disk.argument())]);
        }
        let mut expected: String = disks.iter_mut().map(Disk::exercise).collect();
        for wanted in ENTROPY {
            let count = wanted.min(256);
            expected += &format!("entropy: {count} of {wanted}, 0 behind them, gap false, again false\n");
        }
        expected += "done\n";
        // Where there is no io_uring, stderr says so.
        let said = String::from_utf8(coracle.end().with_code(0).stdout).expect("the guest says text");
        for (said, expected) in said.lines().zip(expected.lines()) {
            assert_eq!(said, expected, "{engine}");
        }
        assert_eq!(said, expected, "{engine}");
        for disk in disks {
            let file = fs::read(disk.file.path()).expect("the disk's file is there");
            assert!(
                file == disk.bytes,
                "{engine}: disk {} is not what its driver wrote",
                disk.id
            );
        }
    }
}
