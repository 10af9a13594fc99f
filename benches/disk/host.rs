//! The engines on a real file of the host, without a guest, beside fio with the same pattern: in turns, so that whatever
//! else the host does meets both.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use coracle::config::{Cache, Engine};
use coracle::interrupt::Interrupt;
use serde_json::Value;

use super::driver::{self, DEPTH, Device, Requests};
use super::offsets::Offsets;

pub const SIZE: u64 = 256 << 20;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);

struct Row {
    name: &'static str,
    engine: Engine,
    cache: Cache,
    ioengine: &'static str,
}

const ROWS: [Row; 3] = [
    Row {
        name: "sync, page cache",
        engine: Engine::Sync,
        cache: Cache::Writeback,
        ioengine: "psync",
    },
    Row {
        name: "uring, page cache",
        engine: Engine::Uring,
        cache: Cache::Writeback,
        ioengine: "io_uring",
    },
    Row {
        name: "uring, O_DIRECT",
        engine: Engine::Uring,
        cache: Cache::Direct,
        ioengine: "io_uring",
    },
];

/// Makes an image without holes, all of it in the page cache.
pub fn make_image(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut file = File::create(path)?;
    let block = vec![0x5a; 1 << 20];
    for _ in 0..SIZE >> 20 {
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}

pub fn run(image: &Path) -> Result<(), Box<dyn Error>> {
    println!(
        "\nrandom 4 KiB at depth {DEPTH} on a file of {} MiB, thousands a second, medians of {ROUNDS} rounds in turns",
        SIZE >> 20
    );
    println!("{:<20}{:<8}{:>10}{:>10}{:>8}", "", "", "ours", "fio", "ratio");
    for row in &ROWS {
        for writes in [false, true] {
            let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let fio = fio(image, row, writes)?;
                let engine = engine(image, row, writes)?;
                ours.push(engine);
                theirs.push(fio);
                ratios.push(engine / fio);
            }
            println!(
                "{:<20}{:<8}{:>10.1}{:>10.1}{:>8.3}",
                row.name,
                if writes { "write" } else { "read" },
                median(ours) / 1e3,
                median(theirs) / 1e3,
                median(ratios)
            );
        }
    }
    Ok(())
}

/// Requests a second of an engine. Its driver works in its interrupts, and so on its thread, as fio's requests are made by
/// the thread that submits them.
fn engine(image: &Path, row: &Row, writes: bool) -> Result<f64, Box<dyn Error>> {
    let memory = driver::memory()?;
    let (ended, has_ended) = mpsc::channel();
    let load = Mutex::new(Load {
        requests: Requests::new(memory.clone(), writes)?,
        offsets: Offsets::new(SIZE),
        begin: Instant::now(),
        complete: 0,
        under_way: 0,
    });
    let load = Arc::new(load);
    let handler = {
        let load = load.clone();
        move || {
            let mut load = load.lock().unwrap_or_else(PoisonError::into_inner);
            match load.go_on() {
                Ok(true) => {}
                Ok(false) => drop(ended.send(Ok(load.complete as f64 / load.begin.elapsed().as_secs_f64()))),
                Err(error) => drop(ended.send(Err(error.to_string()))),
            }
            Ok(())
        }
    };
    let device = Device::start(image, row.engine, row.cache, memory, Interrupt::new(handler))?;
    let mut load = load.lock().unwrap_or_else(PoisonError::into_inner);
    for slot in 0..DEPTH {
        load.offer(slot)?;
    }
    load.requests.want_interrupt_after(1)?;
    device.notify(&mut load.requests)?;
    drop(load);
    Ok(has_ended.recv()??)
}

struct Load {
    requests: Requests,
    offsets: Offsets,
    begin: Instant,
    complete: u64,
    under_way: usize,
}

impl Load {
    fn offer(&mut self, slot: usize) -> Result<(), Box<dyn Error>> {
        self.under_way += 1;
        self.requests.offer(slot, self.offsets.next())
    }

    /// Puts another request in the place of each that is complete, until the round is over. Says whether it goes on.
    fn go_on(&mut self) -> Result<bool, Box<dyn Error>> {
        let is_over = self.begin.elapsed() >= ROUND;
        while self.requests.want_interrupt_after(1)? {
            while let Some(slot) = self.requests.take()? {
                self.complete += 1;
                self.under_way -= 1;
                if !is_over {
                    self.offer(slot)?;
                }
            }
        }
        Ok(self.under_way > 0)
    }
}

fn fio(image: &Path, row: &Row, writes: bool) -> Result<f64, Box<dyn Error>> {
    let (pattern, direction) = if writes {
        ("randwrite", "write")
    } else {
        ("randread", "read")
    };
    let direct = u8::from(row.cache == Cache::Direct);
    let output = Command::new("fio")
        .args([
            "--name=disk",
            "--bs=4k",
            "--time_based",
            "--norandommap",
            "--invalidate=0",
            "--gtod_reduce=1",
        ])
        .args(["--output-format=json", "--thread", "--fallocate=none"])
        .arg(format!("--filename={}", image.display()))
        .arg(format!("--size={SIZE}"))
        .arg(format!("--rw={pattern}"))
        .arg(format!("--iodepth={DEPTH}"))
        .arg(format!("--ioengine={}", row.ioengine))
        .arg(format!("--direct={direct}"))
        .arg(format!("--runtime={}", ROUND.as_secs()))
        .output()?;
    if !output.status.success() {
        return Err(format!("fio: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    // It may have notes in front.
    let said = String::from_utf8(output.stdout)?;
    let begin = said.find('{').ok_or("fio gives no report")?;
    let report: Value = serde_json::from_str(&said[begin..])?;
    Ok(report["jobs"][0][direction]["iops"]
        .as_f64()
        .ok_or("fio says nothing of its speed")?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
