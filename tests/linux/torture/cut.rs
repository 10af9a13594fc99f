//! A cut of the host's power: QEMU is killed, so that the nested machine loses its page cache and everything that it had
//! not flushed to the disk on which the images are. When only `coracle` is killed, that page cache survives, and a flush
//! that does nothing goes unnoticed.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::QEMU_IMG;
use super::random::Random;
use super::report::{Message, Report};
use super::round::{DISKS, Guest, How, Image, Round};
use crate::capture::Capture;
use crate::images::{run, sparse};
use crate::machines::Machine;
use crate::place;

/// How many cuts an image goes through before a new one is made.
const CUTS_OF_A_SERIES: u64 = 2;

/// The cut comes after fewer acknowledged records than this.
const MOST_RECORDS: u64 = 150;
/// The longest time between the last of these records and the cut, on this host's clock. A record takes about 20 ms.
const LONGEST: Duration = Duration::from_millis(200);

/// How long the machine's start, a check and the records may take together. They take far less, but
/// not on a host that has much else to do.
const PATIENCE: Duration = Duration::from_secs(1200);

const ROOM_SIZE: u64 = 128 << 20;
const ROOM: &str = "/room";
const WRITING: &str = "writing\n";

/// Cuts the power `count` times, and adds the results to the report.
pub fn cuts(seed: u64, count: u64, report: &Mutex<Report>) {
    const AT_ONCE: u64 = 2;
    thread::scope(|scope| {
        for share in 0..AT_ONCE {
            scope.spawn(move || {
                for number in (share..count.div_ceil(CUTS_OF_A_SERIES)).step_by(AT_ONCE as usize) {
                    if let Err(why) = Series::new(seed, number).and_then(|mut series| series.run(report)) {
                        report
                            .lock()
                            .unwrap()
                            .fail(format!("power cuts, series {number}: {why}"));
                    }
                }
            });
        }
    });
}

struct Series {
    random: Random,
    scratch: TempDir,
    /// What this side knows of the image on the host's disk.
    image: Image,
}

impl Series {
    fn new(seed: u64, number: u64) -> Result<Self, String> {
        let mut random = Random::new(seed ^ number << 32 ^ 1 << 63);
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|why| why.to_string())?;
        let room = sparse(&scratch, "room", ROOM_SIZE).display().to_string();
        run("/sbin/mke2fs", &["-q", "-F", "-t", "ext4", &room])?;
        let disk = (number % DISKS.len() as u64) as usize;
        let image = Image::new(Path::new(ROOM), random.next() >> 1, disk);
        Ok(Self {
            random,
            scratch,
            image,
        })
    }

    fn run(&mut self, report: &Mutex<Report>) -> Result<(), String> {
        let mut before = None;
        for left in (0..=CUTS_OF_A_SERIES).rev() {
            match self.life(before, left == 0, report)? {
                Some(life) => before = Some(life),
                None => break,
            }
        }
        Ok(())
    }

    /// Starts the machine, which first checks the records that were acknowledged in the life `before`, and then writes
    /// records until the cut. `None` if it wrote none, because this life was the last one or records are missing.
    fn life(
        &mut self,
        before: Option<Life>,
        last: bool,
        report: &Mutex<Report>,
    ) -> Result<Option<Life>, String> {
        let begin = Instant::now();
        let mut machine = self.machine();
        let mut child = machine
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|why| format!("cannot run {machine:?}: {why}"))?;
        let stdout = Capture::of(child.stdout.take().expect("it is piped"));
        let deadline = begin + PATIENCE;
        let mut seen = stdout.wait_for(WRITING.as_bytes(), 0, deadline);
        let mut go_on = !last;
        if let Some(before) = before {
            let told = text(&stdout);
            let line = told
                .lines()
                .find(|line| line.starts_with('{'))
                .unwrap_or_default();
            match serde_json::from_str(line) {
                Ok(Message::Round(mut round)) => {
                    (round.acknowledged, round.milliseconds) = (before.acknowledged, before.milliseconds);
                    report.lock().unwrap().add(&round);
                    go_on &= round.is_good();
                }
                Ok(Message::End { .. }) | Err(_) => seen = None,
            }
        }
        let records = if go_on {
            self.random.next() % MOST_RECORDS
        } else {
            0
        };
        for _ in 0..records {
            seen = seen.and_then(|seen| stdout.wait_for(b"\nack ", seen, deadline));
        }
        if go_on {
            thread::sleep(self.random.below(LONGEST));
        }
        // QEMU is killed with it (PR_SET_PDEATHSIG).
        child.kill().map_err(|why| why.to_string())?;
        let milliseconds = begin.elapsed().as_millis() as u64;
        child.wait().map_err(|why| why.to_string())?;
        let ended = stdout.wait_for_end(Instant::now() + PATIENCE);
        let said = text(&stdout);
        if seen.is_none() || !ended {
            return Err(format!(
                "the machine does not come to {records} records; it said:\n{said}"
            ));
        }
        let console = said.split_once(WRITING).map_or("", |(_, console)| console);
        let acknowledged = self.image.acknowledge(console);
        Ok(go_on.then_some(Life {
            acknowledged,
            milliseconds,
        }))
    }

    /// The command that starts the machine, with what is known of the image.
    fn machine(&self) -> Command {
        let Image { id, disk, held, .. } = &self.image;
        let numbers = [*id, *disk as u64].into_iter().chain(*held);
        let arguments: Vec<OsString> = ["--torture-cut".to_owned()]
            .into_iter()
            .chain(numbers.map(|number| number.to_string()))
            .map(OsString::from)
            .collect();
        let room = self.scratch.path().join("room").into_os_string();
        let options = ["--disk".into(), room, "--file".into(), QEMU_IMG.into()];
        place::machine(Machine::Amd(0), None, &options, &arguments)
    }
}

struct Life {
    acknowledged: u64,
    milliseconds: u64,
}

fn text(capture: &Capture) -> String {
    String::from_utf8_lossy(&capture.bytes()).replace('\r', "")
}

/// `--torture-cut ID DISK HELD...`, run in the machine: checks the image, or makes it if there is none, and writes to it
/// until the machine is killed.
pub fn inside(arguments: &[String]) -> ExitCode {
    let numbers: Vec<u64> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    let [id, disk, held @ ..] = numbers.as_slice() else {
        return ExitCode::FAILURE;
    };
    let Ok(held) = held.try_into() else {
        return ExitCode::FAILURE;
    };
    let mut image = Image::new(Path::new(ROOM), *id, *disk as usize);
    image.held = held;
    match live(image) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("power cut: {why}");
            ExitCode::FAILURE
        }
    }
}

fn live(mut image: Image) -> Result<(), String> {
    run("modprobe", &["virtio_blk"])?;
    run("mkdir", &["-p", ROOM])?;
    // The kernel writes nothing back just because time has passed, so what is there after the cut was flushed.
    run("mount", &["-t", "ext4", "-o", "commit=3600", "/dev/vda", ROOM])?;
    std::fs::write("/proc/sys/vm/dirty_writeback_centisecs", "0").map_err(|why| why.to_string())?;
    let guest = Guest::new();
    let path: &PathBuf = &image.path;
    if path.exists() {
        let lost = image.check(&guest);
        let unclean = image.unclean();
        let disk = DISKS[image.disk].into();
        let round = Round {
            how: How::PowerCut,
            disk,
            milliseconds: 0,
            acknowledged: 0,
            lost,
            unclean,
        };
        Message::Round(round).send();
    } else {
        image.make()?;
    }
    run("sync", &[])?;
    print!("{WRITING}");
    io::stdout().flush().map_err(|why| why.to_string())?;
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let finished = image
        .write(&guest)
        .stdout(stdout.map_err(|why| why.to_string())?)
        .end();
    Err(format!("the guest ended before the power did\n{finished}"))
}
