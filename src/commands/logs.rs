//! `coracle logs`: prints what a guest has printed on its console.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use super::{Error, named, print, system};
use crate::console::{Colours, For, wait};
use crate::guests::{Guest, TimesReader};

/// Print what a guest has printed on its console
///
/// The last megabyte is kept, also after the guest's end until coracle rm. On a terminal, text and colours are shown, and nothing by which
/// a guest would change it or ask it something; a file or a pipe gets the guest's bytes, unchanged.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle logs web
      everything that is kept
  coracle logs -f --tail 20 web
      the last 20 lines, and then what is printed until the guest ends
  coracle logs -t --since 10m web
      what was printed in the last 10 minutes, each line with its time")]
pub struct Args {
    /// Name of the guest
    name: String,

    /// Go on until the guest ends
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last N lines: a number, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = lines)]
    tail: Lines,

    /// Begin with what was printed at this time: before so long, such as 10m or 1h30m, at 2026-11-29T10:00:00Z, or seconds since 1970
    ///
    /// Times are known to the second.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,

    /// Print before each line when it was printed
    #[arg(short, long)]
    timestamps: bool,
}

/// How many lines at the end are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    All,
    Last(usize),
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let (_, guest) = named::find(&args.name)?;
    show(&guest, args)?;
    Ok(0)
}

const WHAT: &str = "read the log";

fn show(guest: &Guest, args: &Args) -> Result<(), Error> {
    let follow = args.follow;
    let mut log = guest.log()?;
    if let Some(since) = args.since {
        let position = guest.log_times()?.position_of(since).map_err(system(WHAT))?;
        match position {
            Some(position) => log.go_to_line_of(position),
            None => log.go_to_last_lines(0),
        }
        .map_err(system(WHAT))?;
    }
    // The last lines of what was printed since then.
    if let Lines::Last(count) = args.tail {
        log.go_to_last_lines(count).map_err(system(WHAT))?;
    }
    let mut stamps = match args.timestamps {
        true => Some(Stamps::new(guest.log_times()?)),
        false => None,
    };
    let mut colours = io::stdout().is_terminal().then(Colours::default);
    // Both before what is there is read: what comes after that is then noticed.
    let process = match follow {
        true => guest.process()?,
        false => None,
    };
    let mut watch = log.watch().map_err(system(WHAT))?;
    let mut has_ended = process.is_none();
    loop {
        watch.reset();
        loop {
            let bytes = log.read().map_err(system(WHAT))?;
            if bytes.is_empty() {
                break;
            }
            let text = match &mut stamps {
                Some(stamps) => stamps.put(log.position(), &bytes).map_err(system(WHAT))?,
                None => bytes,
            };
            let text = match &mut colours {
                Some(colours) => colours.show(&text),
                None => text,
            };
            print("print the log", text)?;
        }
        if let Some(colours) = &mut colours {
            print("print the log", colours.pause())?;
        }
        let Some(process) = process.as_ref().filter(|_| !has_ended) else {
            return Ok(());
        };
        // Once it has ended, what it wrote last is still to be read.
        let watched = [
            Some(For::Reading(process.as_fd())),
            Some(For::Reading(watch.as_fd())),
        ];
        [has_ended, _] = wait(watched, None).map_err(system(WHAT))?;
    }
}

/// Puts times before lines.
struct Stamps {
    times: TimesReader,
    is_in_line: bool,
}

impl Stamps {
    fn new(times: TimesReader) -> Self {
        let is_in_line = false;
        Self { times, is_in_line }
    }

    /// `end` is where in the log these bytes end.
    fn put(&mut self, end: u64, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stamped = Vec::new();
        // A note of what is missing is not in the log.
        let mut position = end.saturating_sub(bytes.len() as u64);
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if !self.is_in_line {
                let time = self.times.time_of(position)?;
                let text = match time {
                    Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
                    // As long as a time is.
                    None => "-".repeat(20),
                };
                stamped.extend(text.into_bytes());
                stamped.push(b' ');
            }
            stamped.extend(line);
            position += line.len() as u64;
            self.is_in_line = !line.ends_with(b"\n");
        }
        Ok(stamped)
    }
}

/// A moment: so long ago, a date, or seconds since 1970.
fn time(text: &str) -> Result<SystemTime, String> {
    let seconds = || text.parse().ok().filter(|seconds| (0.0..1e11).contains(seconds));
    let ago = || humantime::parse_duration(text).ok();
    let now = SystemTime::now();
    match (seconds(), ago()) {
        (Some(seconds), _) => Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)),
        // What is before all times begins with the first of them.
        (None, Some(ago)) => Some(
            now.checked_sub(ago)
                .map_or(SystemTime::UNIX_EPOCH, |then| then.max(SystemTime::UNIX_EPOCH)),
        ),
        (None, None) => humantime::parse_rfc3339_weak(text).ok(),
    }
    .ok_or_else(|| {
        "give how long ago, as 10m or 1h30m, a time of UTC, as 2026-11-29T10:00:00Z, or seconds since 1970"
            .into()
    })
}

fn lines(text: &str) -> Result<Lines, String> {
    match text {
        "all" => Ok(Lines::All),
        _ => text
            .parse()
            .map(Lines::Last)
            .map_err(|_| "give a number of lines, or all".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_span_a_date_or_seconds() {
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_946_400);
        for text in [
            "1795946400",
            "1795946400.0",
            "2026-11-29T10:00:00Z",
            "2026-11-29 10:00:00",
        ] {
            assert_eq!(time(text), Ok(date), "{text}");
        }
        for (text, seconds) in [("10m", 600), ("1h30m", 5400), ("45s", 45)] {
            let then = time(text).unwrap();
            let ago = SystemTime::now().duration_since(then).unwrap();
            assert!(
                (seconds..seconds + 60).contains(&ago.as_secs()),
                "{text}: {ago:?}"
            );
        }
        assert_eq!(time("1000000y"), Ok(SystemTime::UNIX_EPOCH));
        for text in ["", "soon", "-5", "1e30", "NaN", "2026-13-01T00:00:00Z"] {
            assert!(time(text).unwrap_err().contains("10m"), "{text}");
        }
    }
}
