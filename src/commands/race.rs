//! `coracle race`: measures boot time beside containers and other VMMs.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use coracle_race::{self as race, Format, Guest, Host, Interrupts, Options, Plot, Row, Runner};

use super::doctor::{self, Offer};
use super::number::number;
use super::{Error, print, system};
use crate::boot::Image;
use crate::built_in;
use crate::config::{CPUS_MAX, Config, Size};
use crate::diagnosis::exit_code;
use crate::kvm::Kvm;
use crate::machine;

/// Measure boot time side by side with containers and other VMMs
///
/// Measures the time from the start of a process to the first line that its workload prints, for Coracle and for
/// every other runner on this host: crun, runc, podman and docker with the built-in guest's init as the container's
/// command, and QEMU (microvm), Firecracker, Cloud Hypervisor and crosvm with the same kernel, initrd and init.
/// The runners take turns, so that other work of the host slows all of them alike.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle race
      every runner on this host, 10 starts each
  coracle race --only coracle,crun --runs 50 --plot race.png
      two of them, with more starts for more exact figures, and a picture
  coracle race --export-json race.json --export-markdown race.md
      files for hyperfine's plotting scripts and for a README
  coracle race --only coracle,runc --parallel 32
      32 at once: starts a second, p99, and how many of them would fit this host's memory
  coracle race -- sh -c 'echo ready; exec sleep 1000'
      the time until a command in the guest prints its first line
  coracle race -v
      prints the command line of each runner, too

Exit codes: 0 measured, 125 nothing was measured or Coracle, being in the race, was not, 128+N ended by signal N.")]
pub struct Args {
    /// How many starts of each runner are measured
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number(1..=100_000u32))]
    runs: u32,

    /// How many starts of each runner come before those and are not measured: they bring files into the page cache
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number(0..=1000u32))]
    warmup: u32,

    /// Race only these runners [default: all on this host]
    #[arg(long, value_name = "RUNNER,...", value_delimiter = ',')]
    only: Vec<Runner>,

    /// Memory of each guest, for example 512M; at least 32M
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    memory: Size,

    /// Number of vCPUs of each guest, 1 to 32
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number(1..=CPUS_MAX))]
    cpus: u8,

    /// Start K guests of a runner at once, then K of the next runner, and so on
    #[arg(long, value_name = "K", conflicts_with = "runs", value_parser = number(1..=1000u32))]
    parallel: Option<u32>,

    /// Write the figures to FILE as JSON: hyperfine's keys, in seconds, and some more
    #[arg(long, value_name = "FILE")]
    export_json: Option<PathBuf>,

    /// Write the table to FILE in Markdown
    #[arg(long, value_name = "FILE")]
    export_markdown: Option<PathBuf>,

    /// Draw every start, with a row for each runner, into FILE, which ends in .svg or .png
    #[arg(long, value_name = "FILE")]
    plot: Option<PlotFile>,

    /// A command for init: the clock stops at the first line of this command instead of init's first line
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone)]
struct PlotFile {
    path: PathBuf,
    format: Format,
}

impl FromStr for PlotFile {
    type Err = String;

    fn from_str(path: &str) -> Result<Self, String> {
        Ok(Self {
            path: path.into(),
            format: path.parse()?,
        })
    }
}

impl Args {
    fn options(&self) -> Result<Options, Error> {
        Config {
            memory: self.memory,
            cpus: self.cpus,
            ..Config::default()
        }
        .validate()?;
        let is_wanted = |runner: &Runner| self.only.is_empty() || self.only.contains(runner);
        Ok(Options {
            runs: self.runs,
            warmup: self.warmup,
            runners: Runner::ALL.into_iter().filter(is_wanted).collect(),
            memory: self.memory.0,
            cpus: self.cpus,
            parallel: self.parallel,
            command: self.command.clone(),
        })
    }
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let options = args.options()?;
    let guest = guest()?;
    let interrupts = Interrupts::catch().map_err(system("catch signals"))?;
    let (host, no_guests) = examine();
    // A reader that goes away may still want the files.
    let mut printed = show(&race::method(&options, &host))?;

    let rows = race::race(guest, &options, no_guests.as_deref(), &interrupts)?;
    if log::log_enabled!(log::Level::Debug) {
        printed &= show(&format!("\n{}", race::commands(&rows)))?;
    }
    printed &= show(&format!("\n{}", race::results(&rows)))?;
    if let Some(path) = &args.export_json {
        write(
            path,
            format!("{:#}\n", race::json(&rows, &options, &host)).as_bytes(),
        )?;
    }
    if let Some(path) = &args.export_markdown {
        write(path, race::markdown(&rows).as_bytes())?;
    }
    if let Some(file) = &args.plot
        && let Some(plot) = Plot::new(&rows, &options, &host)
    {
        write(&file.path, &plot.render(file.format)?)?;
    }
    match printed {
        true => Ok(verdict(&rows)),
        false => Err(Error::StdoutClosed),
    }
}

/// Prints `text`; false when nobody reads it.
fn show(text: &str) -> Result<bool, Error> {
    match print("print the figures", text) {
        Err(Error::StdoutClosed) => Ok(false),
        printed => printed.map(|()| true),
    }
}

/// What is known of this host, and the reason if guests do not run on it.
fn examine() -> (Host, Option<String>) {
    let (offer, host) = (Kvm::open().map(Offer::ask), doctor::Host::read());
    let report = doctor::examine(&offer, &host);
    let interprets_guests = offer.is_ok_and(|offer| offer.speed.is_ok_and(|speed| speed.is_interpreted()));
    let failed: Vec<_> = report
        .failed()
        .map(|check| format!("{} {}", check.name, check.found))
        .collect();
    let no_guests = (!report.linux_will_boot()).then(|| {
        format!(
            "Linux does not boot on this host: {} (see coracle doctor)",
            failed.join("; ")
        )
    });
    let host = Host {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        processor: host.processor,
        cpus: host.cpus,
        is_virtual: host.is_virtual,
        interprets_guests,
    };
    (host, no_guests)
}

/// The guest that is built into this program.
fn guest() -> Result<Guest, Error> {
    match (built_in::kernel(), built_in::initrd()) {
        (Some(Image::BuiltIn { bytes: kernel, .. }), Some(Image::BuiltIn { bytes: initrd, .. })) => {
            Ok(Guest { kernel, initrd })
        }
        _ => Err(machine::Error::NoBuiltInGuest.into()),
    }
}

fn verdict(rows: &[Row]) -> u8 {
    let ours_failed = rows
        .iter()
        .any(|row| row.runner == Runner::Coracle && row.result.is_err());
    match ours_failed || rows.iter().all(|row| row.result.is_err()) {
        true => exit_code::FAILED,
        false => 0,
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    fs::write(path, content).map_err(|source| {
        Error::Race(race::Error::Export {
            path: path.into(),
            source,
        })
    })
}
