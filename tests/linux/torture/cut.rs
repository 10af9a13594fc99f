//! A cut of the host's power: the nested machine dies, with the page cache of its kernel and all that it had not flushed to
//! the disk that the images are on. (When only `coracle` is killed, that cache stays: a flush that does nothing shows
//! here alone.)

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
use crate::place;

/// Cuts with one image, until the next one is made.
const CUTS_OF_A_SERIES: u64 = 2;

/// A guest acknowledges fewer than so many records before the cut.
const MOST_RECORDS: u64 = 150;
/// From then on, in this host's time: a record takes some 20 ms.
const LONGEST: Duration = Duration::from_millis(200);

/// Far beyond what the machine's start, a check and the records take.
const PATIENCE: Duration = Duration::from_secs(400);

const ROOM_SIZE: u64 = 128 << 20;
const ROOM: &str = "/room";
const WRITING: &str = "writing\n";

/// Cuts the power so often, and adds to the report what came of it.
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
    /// What is on the host's disk, as far as it is known out here.
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

    /// A life of the machine: what was acknowledged in the one `before` is looked for, then records are written until the
    /// cut. `None`: none were, as this life was the last, or as some are missing.
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
        // With this, QEMU dies, by SIGKILL too.
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

    /// The machine, told what is known of the image.
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
        place::machine(0, None, &options, &arguments)
    }
}

struct Life {
    acknowledged: u64,
    milliseconds: u64,
}

fn text(capture: &Capture) -> String {
    String::from_utf8_lossy(&capture.bytes()).replace('\r', "")
}

/// `--torture-cut ID DISK HELD...`, in the machine: checks the image, or makes it when there is none, and writes to it
/// until the end of the machine.
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
    // Nothing is written out because time has passed: what is there afterwards was flushed.
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
