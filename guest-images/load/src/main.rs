//! Reads and writes a disk past the page cache, and says how long that took: `load DEVICE PATTERN...`.
//!
//! A pattern is KIND:BYTES:DEPTH:COUNT, as `randread:4096:32:8000`: that many transfers of so many bytes, DEPTH of them
//! at a time. Of each it prints `begin PATTERN`, then `end PATTERN NANOSECONDS` for all of them together.
//!
//! Or it does what programs of the host say over the vsock port PORT: `load sockets PORT`. Or it times what kernels do for
//! programs: `load steady DIRECTORY`.

mod aio;
mod buffer;
mod init;
mod pattern;
mod sockets;
mod steady;

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use aio::{Aio, Transfer};
use buffer::Buffer;
use pattern::{Offsets, Pattern};

/// Transfers ahead of those that are timed.
const WARM_UP: usize = 500;
/// For whoever reads what we print to look at counters before more happens.
const PAUSE: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if let Err(error) = init::mount_devices() {
        println!("failed to mount /dev: {error}");
        return ExitCode::FAILURE;
    }
    let Some(device) = arguments.next() else {
        eprintln!("usage: load DEVICE KIND:BYTES:DEPTH:COUNT... | load sockets PORT | load steady DIRECTORY");
        return ExitCode::from(2);
    };
    if device == "sockets" {
        let port = arguments.next().and_then(|port| port.parse().ok());
        if let Err(error) = sockets::serve(port.unwrap_or(0)) {
            println!("failed: {error}");
        }
        return ExitCode::FAILURE;
    }
    if device == steady::NOTHING {
        return ExitCode::SUCCESS;
    }
    if device == "steady" {
        let ended = steady::run(&arguments.next().unwrap_or_default());
        return match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("failed: {error}");
                ExitCode::FAILURE
            }
        };
    }
    for pattern in arguments {
        if let Err(error) = run(&device, &pattern) {
            println!("failed {pattern} on {device}: {error}");
            return ExitCode::FAILURE;
        }
    }
    println!("done");
    init::stay();
    ExitCode::SUCCESS
}

fn run(device: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let pattern: Pattern = name.parse()?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(pattern.writes)
        .custom_flags(libc::O_DIRECT)
        .open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let mut offsets = Offsets::new(&pattern, size)?;
    let warm_up = WARM_UP.min(pattern.count / 4);
    let mut load = Load::new(&file, &pattern)?;
    load.run(&mut offsets, warm_up)?;
    println!("begin {name}");
    thread::sleep(PAUSE);
    let begin = Instant::now();
    load.run(&mut offsets, pattern.count)?;
    let took = begin.elapsed();
    thread::sleep(PAUSE);
    println!("end {name} {}", took.as_nanos());
    thread::sleep(PAUSE);
    Ok(())
}

/// How a pattern's transfers are made: one at a time by the plainest system call, several at a time by Linux's
/// asynchronous ones.
enum Load<'a> {
    One {
        file: &'a File,
        writes: bool,
        buffer: Buffer,
    },
    Several {
        aio: Aio<'a>,
        depth: usize,
    },
}

impl<'a> Load<'a> {
    fn new(file: &'a File, pattern: &Pattern) -> Result<Self, Box<dyn Error>> {
        let Pattern {
            writes, bytes, depth, ..
        } = *pattern;
        Ok(match depth {
            1 => Self::One {
                file,
                writes,
                buffer: Buffer::new(bytes)?,
            },
            _ => Self::Several {
                aio: Aio::new(file, writes, bytes, depth)?,
                depth,
            },
        })
    }

    fn run(&mut self, offsets: &mut Offsets, count: usize) -> Result<(), Box<dyn Error>> {
        match self {
            Self::One { file, writes, buffer } => {
                for offset in offsets.take(count) {
                    match writes {
                        true => file.write_all_at(buffer, offset)?,
                        false => file.read_exact_at(buffer, offset)?,
                    }
                }
            }
            Self::Several { aio, depth } => {
                let first = offsets.take((*depth).min(count));
                let mut started = first.len();
                let first: Vec<_> = first
                    .enumerate()
                    .map(|(slot, offset)| Transfer { slot, offset })
                    .collect();
                aio.submit(&first)?;
                let mut ended = 0;
                let mut next = Vec::with_capacity(*depth);
                while ended < count {
                    next.clear();
                    let slots = aio.wait()?;
                    ended += slots.len();
                    let more = slots.len().min(count - started);
                    started += more;
                    next.extend(
                        slots
                            .iter()
                            .zip(offsets.take(more))
                            .map(|(&slot, offset)| Transfer { slot, offset }),
                    );
                    if !next.is_empty() {
                        aio.submit(&next)?;
                    }
                }
            }
        }
        Ok(())
    }
}
