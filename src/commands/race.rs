//! `coracle race`: boot time beside containers and other VMMs.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use coracle_race::{self as race, Format, Guest, Host, Interrupts, Options, Plot, Row, Runner};

use super::doctor::{self, Offer};
use super::{Error, system};
use crate::boot::Image;
use crate::built_in;
use crate::config::{CPUS_MAX, Config, Size};
use crate::diagnosis::exit_code;
use crate::kvm::Kvm;
use crate::machine;

/// Measure boot time side by side with containers and other VMMs
///
/// Times how long it takes from starting a process to the first line that its workload prints, for Coracle and for
/// every other runner on this host: crun, runc, podman and docker with the built-in guest's init as the container's
/// command, and QEMU (microvm), Firecracker, Cloud Hypervisor and crosvm with the same kernel, initrd and init.
/// They take turns, so that what the host does meanwhile hits all of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle race
      everything on this host, 10 starts each
  coracle race --only coracle,crun --runs 50 --plot race.png
      two of them, more exactly, with a picture
  coracle race --export-json race.json --export-markdown race.md
      for hyperfine's plotting scripts, and for a README
  coracle race --only coracle,runc --parallel 32
      32 at once: starts a second, p99, and how many of them would fit this host's memory
  coracle race -- sh -c 'echo ready; exec sleep 1000'
      until a command of the guest prints its first line
  coracle race -v
      each runner's command line, too

Exit codes: 0 measured, 125 nothing was measured, or Coracle was in the race and was not, 128+N ended by signal N.")]
pub struct Args {
    /// Starts of each runner that count
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,

    /// Starts of each runner before those, which do not count: they bring files into the page cache
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=1000))]
    warmup: u32,

    /// Only these runners [default: all]
    #[arg(long, value_name = "RUNNER,...", value_delimiter = ',')]
    only: Vec<Runner>,

    /// Memory of each guest, at least 32M
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    memory: Size,

    /// vCPUs of each guest, 1 to 32
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=CPUS_MAX.into()))]
    cpus: u8,

    /// Start K of each at once instead, one runner after the other
    #[arg(long, value_name = "K", conflicts_with = "runs", value_parser = clap::value_parser!(u32).range(1..=1000))]
    parallel: Option<u32>,

    /// Write the figures as hyperfine does, in seconds, with ours beside them
    #[arg(long, value_name = "FILE")]
    export_json: Option<PathBuf>,

    /// Write the table in Markdown
    #[arg(long, value_name = "FILE")]
    export_markdown: Option<PathBuf>,

    /// Draw every start, a row a runner, into FILE.svg or FILE.png
    #[arg(long, value_name = "FILE")]
    plot: Option<PlotFile>,

    /// What init runs: the clock then stops at the first line of this command, not at init's
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
    print(&race::method(&options, &host))?;

    let rows = race::race(guest, &options, no_guests.as_deref(), &interrupts)?;
    if log::log_enabled!(log::Level::Debug) {
        print(&format!("\n{}", race::commands(&rows)))?;
    }
    print(&format!("\n{}", race::results(&rows)))?;
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
    Ok(verdict(&rows))
}

/// This host, and why guests do not run on it if they do not.
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

/// What this program carries inside.
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

fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever stopped reading may still want the files.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(system("print the figures")(error)),
        _ => Ok(()),
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
