//! What `coracle race` does: boot time beside containers and other VMMs, all with the same workload.
//!
//! A crate of its own, because it is compiled for size and Coracle for speed (see Cargo.toml at the root).
//!
//! The clock runs from just before a process is started until the first line of its workload has been read. Runners
//! take turns, so that other work of the host slows all of them alike.

mod host;
mod interrupts;
mod marks;
mod memory;
mod plot;
mod progress;
mod report;
mod runner;
mod start;
mod statistics;
mod table;
mod typed;
mod wait;
mod watcher;
mod workload;

use std::io;
use std::path::PathBuf;
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use serde::Serialize;

pub use host::Host;
pub use interrupts::Interrupts;
pub use memory::Memory;
pub use plot::axis;
pub use plot::{Format, Plot};
pub use report::json;
pub use runner::Runner;
pub use start::Start;
pub use statistics::{Ratio, Statistics, outliers};
pub use table::{commands, markdown, method, results};
pub use typed::as_typed;
pub use workload::init_arguments;

use marks::Mark;
use memory::{Processes, available};
use progress::Progress;
use runner::Contestant;
use start::{Failure, Process, look, watch};
use watcher::Watcher;
use workload::{IDLE, Workload};

/// Bytes in one MiB.
const MIB: u64 = 1 << 20;

/// What guests boot and containers run, as Coracle carries it: a kernel, and a cpio archive with /init in it.
#[derive(Clone, Copy)]
pub struct Guest {
    pub kernel: &'static [u8],
    pub initrd: &'static [u8],
}

/// What a person chose about a race.
#[derive(Debug, Clone)]
pub struct Options {
    pub runs: u32,
    pub warmup: u32,
    pub runners: Vec<Runner>,
    /// Bytes of memory of each guest.
    pub memory: u64,
    /// vCPUs of each guest.
    pub cpus: u8,
    /// Start this many at once, one time, instead of runs in turns.
    pub parallel: Option<u32>,
    /// The command that init runs. If there is one, the clock stops at its first line instead of init's.
    pub command: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make the files of a race in {}: {source}", path.display())]
    Files { path: PathBuf, source: io::Error },
    #[error("cannot start /bin/sh, which clears up after a race that is killed: {0}")]
    Watcher(#[source] io::Error),
    #[error("a guest has whole MiB in a race, and {0} bytes are not: give for example 128M")]
    Memory(u64),
    #[error(
        "the command has '{0}' in it, which a kernel command line cannot pass on: printable ASCII without quotation marks can"
    )]
    Command(String),
    #[error("cannot write {}: {source}", path.display())]
    Export { path: PathBuf, source: io::Error },
    #[error("cannot draw the plot: {0}")]
    Plot(String),
    #[error("ended by signal {0}; nothing is left running")]
    Interrupted(i32),
}

/// The result of one runner.
#[derive(Debug, Clone)]
pub struct Row {
    pub runner: Runner,
    /// Its command line. Empty for a runner that is not on this host.
    pub command: Vec<String>,
    /// What was measured, or a sentence that says why nothing was.
    pub result: Result<Measured, String>,
}

#[derive(Debug, Clone)]
pub struct Measured {
    pub starts: Vec<Start>,
    /// What was measured of all at once, if they were started at once.
    pub together: Option<Together>,
}

/// Starts at once, and what they have in memory when all have come to their idle state.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Together {
    /// All of them by the time from the first's start until the last's line.
    pub starts_per_second: f64,
    /// Bytes by which the host's available memory became less, by each.
    pub memory_each: Option<u64>,
    /// How many such would fit into what was available before, at this price.
    pub fit: Option<u64>,
}

impl Measured {
    pub fn times(&self) -> Vec<f64> {
        self.starts.iter().map(|start| start.time).collect()
    }
}

/// Races, and gives a row for each runner in their order. `no_guests` is why no VMM can run on this host. Progress is
/// shown on stderr if that is a terminal.
pub fn race(
    guest: Guest,
    options: &Options,
    no_guests: Option<&str>,
    interrupts: &Interrupts,
) -> Result<Vec<Row>, Error> {
    if !options.memory.is_multiple_of(MIB) {
        return Err(Error::Memory(options.memory));
    }
    if let Some(word) = options.command.iter().find(|word| !workload::is_passable(word)) {
        return Err(Error::Command(word.clone()));
    }
    let (command, mark) = match options.command.is_empty() {
        true => (IDLE.map(String::from).into(), Mark::Init),
        false => (options.command.clone(), Mark::Command),
    };
    let workload = Workload::new(guest, command, options.memory / MIB, options.cpus)?;
    let watcher = Watcher::start(workload.path()).map_err(Error::Watcher)?;
    let race = Race {
        workload,
        watcher,
        mark,
        interrupts,
    };
    let mut competitors: Vec<_> = options
        .runners
        .iter()
        .map(|&runner| Competitor::new(runner, &race, no_guests))
        .collect();
    let progress = Progress::new(options);
    let mut each = |go: &mut dyn FnMut(&Contestant, &mut Measured) -> Result<(), Failure>| {
        for competitor in &mut competitors {
            progress.next(competitor.runner);
            competitor.go(&mut *go)?;
        }
        Ok(())
    };
    for _ in 0..options.warmup {
        each(&mut |contestant, _| race.one(contestant).map(drop))?;
    }
    match options.parallel {
        Some(count) => each(&mut |contestant, measured| {
            *measured = race.together(contestant, count)?;
            Ok(())
        })?,
        None => {
            for _ in 0..options.runs {
                each(&mut |contestant, measured| {
                    measured.starts.push(race.one(contestant)?);
                    Ok(())
                })?;
            }
        }
    }
    Ok(competitors.into_iter().map(Competitor::row).collect())
}

/// A runner in the race.
struct Competitor {
    runner: Runner,
    command: Vec<String>,
    /// Or the reason why it is out of the race.
    contestant: Result<Contestant, String>,
    measured: Measured,
}

impl Competitor {
    fn new(runner: Runner, race: &Race, no_guests: Option<&str>) -> Self {
        let contestant = Contestant::prepare(runner, &race.workload, &race.watcher);
        let contestant = contestant.and_then(|contestant| match no_guests {
            Some(why) if runner.is_vmm() => Err(why.to_owned()),
            _ => Ok(contestant),
        });
        Self {
            runner,
            command: contestant
                .as_ref()
                .map(|contestant| contestant.command(&race.workload, "NAME"))
                .unwrap_or_default(),
            contestant,
            measured: Measured {
                starts: Vec::new(),
                together: None,
            },
        }
    }

    /// Does something with it, unless it is out. A failure puts it out.
    fn go(
        &mut self,
        go: impl FnOnce(&Contestant, &mut Measured) -> Result<(), Failure>,
    ) -> Result<(), Error> {
        let Ok(contestant) = &self.contestant else {
            return Ok(());
        };
        match go(contestant, &mut self.measured) {
            Ok(()) => Ok(()),
            Err(Failure::Interrupted(signal)) => Err(Error::Interrupted(signal)),
            Err(Failure::Runner(why)) => {
                self.contestant = Err(why);
                Ok(())
            }
        }
    }

    fn row(self) -> Row {
        // Parts of it are a runner's own words, or its guest's: they must neither clear a screen nor break a table.
        let one_line = |why: String| why.replace(char::is_control, " ");
        Row {
            runner: self.runner,
            command: self.command,
            result: self.contestant.map(|_| self.measured).map_err(one_line),
        }
    }
}

struct Race<'a> {
    workload: Workload,
    watcher: Watcher,
    /// Where the clock stops.
    mark: Mark,
    interrupts: &'a Interrupts,
}

impl Race<'_> {
    /// One start, ended right after its line.
    fn one(&self, contestant: &Contestant) -> Result<Start, Failure> {
        let mut process = [Process::start(
            contestant,
            &self.workload,
            &self.watcher,
            new_id(),
        )?];
        watch(&mut process, self.mark, self.interrupts)?;
        let [process] = process;
        process.freeze();
        let memory = process.memory(&Processes::read());
        Ok(finish(process, self.mark, memory))
    }

    /// So many starts, all before the first is ended.
    fn together(&self, contestant: &Contestant, count: u32) -> Result<Measured, Failure> {
        let available_before = available();
        let mut processes = Vec::new();
        for _ in 0..count {
            processes.push(Process::start(
                contestant,
                &self.workload,
                &self.watcher,
                new_id(),
            )?);
            // Those that were started before it may be ready already.
            look(&mut processes, self.mark, self.interrupts, Instant::now())?;
        }
        watch(&mut processes, self.mark, self.interrupts)?;
        watch(&mut processes, Mark::Command, self.interrupts)?;
        let used = available_before
            .zip(available())
            .map(|(before, after)| before.saturating_sub(after));
        let memory_each = used.map(|used| used / u64::from(count));
        let table = Processes::read();
        let memory: Vec<_> = processes.iter().map(|process| process.memory(&table)).collect();

        let first = processes.iter().map(|process| process.begin).min();
        let last = processes
            .iter()
            .filter_map(|process| process.reached(self.mark))
            .max();
        let seconds = first
            .zip(last)
            .map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        let together = Together {
            starts_per_second: f64::from(count) / seconds.max(f64::MIN_POSITIVE),
            memory_each,
            fit: available_before
                .zip(memory_each)
                .and_then(|(available, each)| available.checked_div(each)),
        };
        let starts = processes
            .into_iter()
            .zip(memory)
            .map(|(process, memory)| finish(process, self.mark, memory))
            .collect();
        Ok(Measured {
            starts,
            together: Some(together),
        })
    }
}

/// Ends a process that has come to the mark.
fn finish(process: Process, mark: Mark, memory: Option<Memory>) -> Start {
    let time = process
        .reached(mark)
        .map_or(0.0, |reached| (reached - process.begin).as_secs_f64());
    let (user, system) = process.end();
    Start {
        time,
        user,
        system,
        memory,
    }
}

/// A name for a container that no other has.
fn new_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("coracle-race-{}-{}", id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod test_rows;
