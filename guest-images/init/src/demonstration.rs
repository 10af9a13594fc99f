//! What the built-in guest does when it has neither a command nor a person: shows that it works.
//!
//! It writes to a disk of its own only, which its serial number says is one. Any other disk is a person's: it is read, and
//! not mounted, because mounting alone may write.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::say::say;
use crate::since_boot;
use crate::terminal::is_kernel_console;

/// The serial number (`id=` of --disk) of a disk that is here to be written to.
const SERIAL: &str = "demonstration";
const DISKS: &str = "/sys/block";
const MOUNT_POINT: &str = "/mnt";
const FILE: &str = "/mnt/coracle-demonstration";
/// Bytes written to the disk and read back.
const AMOUNT: usize = 4 << 20;
/// Bytes a read or write.
const PIECE: usize = 64 << 10;
/// No disk has larger blocks.
const BLOCK: usize = 4096;
/// Bytes a sector of /sys/block/*/stat (Linux block/stat: always 512).
const SECTOR: u64 = 512;

/// Prints what this guest is and what its disk does. `boot_time` is from the kernel's start to init's.
/// An error is a sentence that says what went wrong.
pub fn run(boot_time: Duration) -> Result<(), String> {
    let version = read("/proc/version")?;
    say(format_args!("  kernel   {}", version.trim_end()));
    let online = read("/sys/devices/system/cpu/online")?;
    let cpus =
        count_cpus(&online).ok_or_else(|| format!("cannot count the CPUs in `{}`", online.trim_end()))?;
    say(format_args!("  CPUs     {cpus} online"));
    let memory = memory_total(&read("/proc/meminfo")?).ok_or("/proc/meminfo says no MemTotal")?;
    say(format_args!("  memory   {} MiB", memory / 1024));
    // Whole numbers: what formats fractions would be a tenth of this program.
    let tenths = (boot_time.as_micros() + 50) / 100;
    let (whole, tenth) = (tenths / 10, tenths % 10);
    say(format_args!("  boot     {whole}.{tenth} ms from kernel to init"));
    let disks = match is_kernel_console() {
        true => disks(),
        false => Vec::new(),
    };
    let own = disks.iter().find(|disk| disk.serial == SERIAL);
    let first = disks.iter().min_by(|one, other| one.name.cmp(&other.name));
    match own.or(first) {
        None => {
            say("  disk     none");
            Ok(())
        }
        Some(disk) if disk.serial != SERIAL => disk.read(""),
        Some(disk) if disk.is_read_only => disk.read(" is read-only:"),
        Some(disk) => disk.write(),
    }
}

/// A disk of this guest.
struct Disk {
    /// Such as `vda`.
    name: String,
    serial: String,
    is_read_only: bool,
}

/// The disks, in no order.
fn disks() -> Vec<Disk> {
    let names = fs::read_dir(DISKS).into_iter().flatten();
    names
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let told = |what: &str| read(&format!("{DISKS}/{name}/{what}")).ok();
            Some(Disk {
                serial: told("serial")?.trim_end().to_owned(),
                is_read_only: told("ro")?.trim_end() == "1",
                name,
            })
        })
        .collect()
}

/// Why writing and reading back did not work.
enum Failure {
    /// There is no room left on the file system.
    Full,
    Other(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

impl Disk {
    fn device(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// Reads the start of the disk. `why` it is not written is told, if there is a reason.
    fn read(&self, why: &str) -> Result<(), String> {
        let device = self.device();
        let disk = File::open(&device).map_err(failed("open", &device))?;
        let bytes =
            io::copy(&mut disk.take(AMOUNT as u64), &mut io::sink()).map_err(failed("read", &device))?;
        let colon = if why.is_empty() { ":" } else { why };
        say(format_args!("  disk     {device}{colon} {bytes} bytes read"));
        Ok(())
    }

    /// Writes a file to the disk and reads it back.
    fn write(&self) -> Result<(), String> {
        let device = self.device();
        // A directory that is there already is as good.
        let _ = fs::create_dir(MOUNT_POINT);
        match mount(
            Some(device.as_str()),
            MOUNT_POINT,
            Some("ext4"),
            MsFlags::empty(),
            None::<&str>,
        ) {
            Ok(()) => {}
            Err(Errno::EINVAL) => return self.read(" is without an ext4 file system:"),
            Err(why) => return Err(format!("cannot mount {device}: {why}")),
        }
        let checked = self.write_and_read_back();
        let removed = match fs::remove_file(FILE) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(failed("remove", FILE)(why)),
            _ => Ok(()),
        };
        let unmounted = umount2(MOUNT_POINT, MntFlags::empty()).map_err(failed("unmount", MOUNT_POINT));
        match checked {
            Ok(()) => removed.and(unmounted),
            Err(Failure::Full) => removed.and(unmounted).and_then(|()| self.read(" is full:")),
            Err(Failure::Other(why)) => Err(why),
        }
    }

    fn write_and_read_back(&self) -> Result<(), Failure> {
        // A seed of its own, so that what an earlier run left on the disk does not pass for this run's.
        let seed = since_boot().as_nanos() as u64;
        let mut file = File::create(FILE).map_err(not_written("create"))?;
        let mut pattern = Pattern::new(seed);
        let mut piece = vec![0; PIECE];
        for _ in 0..AMOUNT / PIECE {
            pattern.fill(&mut piece);
            file.write_all(&piece).map_err(not_written("write"))?;
        }
        file.sync_all().map_err(not_written("flush"))?;
        drop(file);

        // Past the page cache, so that what is read back comes from the disk. The kernel then asks for memory that begins
        // on a block.
        let read_before = self.sectors_read()?;
        let mut file = File::options()
            .read(true)
            .custom_flags(OFlag::O_DIRECT.bits())
            .open(FILE)
            .map_err(failed("open", FILE))?;
        let mut pattern = Pattern::new(seed);
        let mut expected = vec![0; PIECE];
        let mut room = vec![0; PIECE + BLOCK];
        let start = room.as_ptr().align_offset(BLOCK);
        let piece = &mut room[start..start + PIECE];
        for number in 0..AMOUNT / PIECE {
            pattern.fill(&mut expected);
            file.read_exact(piece).map_err(failed("read", FILE))?;
            if piece != expected {
                let within = piece
                    .iter()
                    .zip(&expected)
                    .position(|(a, b)| a != b)
                    .unwrap_or_default();
                let byte = number * PIECE + within;
                return Err(format!("{FILE} differs from what was written at byte {byte}").into());
            }
        }
        let device = self.device();
        let from_disk = (self.sectors_read()? - read_before) * SECTOR;
        if from_disk < AMOUNT as u64 {
            return Err(format!(
                "only {from_disk} of {AMOUNT} bytes were read from {device}, the others from memory"
            )
            .into());
        }
        say(format_args!(
            "  disk     {device}: {AMOUNT} bytes written, flushed, read back from the disk: identical"
        ));
        Ok(())
    }

    fn sectors_read(&self) -> Result<u64, String> {
        let stat = read(&format!("{DISKS}/{}/stat", self.name))?;
        let sectors = stat
            .split_ascii_whitespace()
            .nth(2)
            .and_then(|number| number.parse().ok());
        sectors.ok_or_else(|| format!("cannot tell the sectors read in `{}`", stat.trim_end()))
    }
}

/// Bytes that look random and come out the same for the same seed (xorshift64).
struct Pattern(u64);

impl Pattern {
    fn new(seed: u64) -> Self {
        Self(seed | 1) // xorshift stays at zero for ever.
    }

    fn fill(&mut self, piece: &mut [u8]) {
        for bytes in piece.chunks_mut(size_of::<u64>()) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.copy_from_slice(&self.0.to_le_bytes()[..bytes.len()]);
        }
    }
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(failed("read", path))
}

fn failed<E: Display>(what: &str, path: &str) -> impl FnOnce(E) -> String {
    move |why| format!("cannot {what} {path}: {why}")
}

/// The same of writing [`FILE`], which may have no room.
fn not_written(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |why| match why.kind() {
        io::ErrorKind::StorageFull => Failure::Full,
        _ => Failure::Other(failed(what, FILE)(why)),
    }
}

/// The number of CPUs in a list such as `0-3,6`.
fn count_cpus(list: &str) -> Option<u32> {
    list.trim_end().split(',').try_fold(0u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// The kilobytes in the MemTotal line of /proc/meminfo.
fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpus_are_counted_across_ranges() {
        assert_eq!(count_cpus("0\n"), Some(1));
        assert_eq!(count_cpus("0-3,6,8-9\n"), Some(7));
        assert_eq!(count_cpus("3-0"), None);
        assert_eq!(count_cpus("\n"), None);
    }

    #[test]
    fn memory_is_read_in_kilobytes() {
        assert_eq!(
            memory_total("MemTotal:         240032 kB\nMemFree: 1 kB\n"),
            Some(240032)
        );
        assert_eq!(memory_total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn a_pattern_repeats_with_its_seed_and_only_then() {
        let fill = |seed| {
            let mut piece = [0; 100];
            Pattern::new(seed).fill(&mut piece);
            piece
        };
        assert_eq!(fill(6), fill(6));
        assert_ne!(fill(6), fill(8));
        assert_ne!(fill(0), [0; 100]);
    }

    proptest! {
        #[test]
        fn any_list_of_cpus_is_read(list: String) {
            count_cpus(&list);
        }
    }
}
