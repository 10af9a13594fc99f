//! `coracle ps`: lists the guests that have a name.

use serde::Serialize;

use super::{Error, named, print};
use crate::config::Size;
use crate::guests::{Ended, Guest, Made, Place, now};
use crate::plain_text::clean;

/// List the guests that have a name
///
/// Only this user's guests are listed, and of those only the ones that run, unless -a is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle ps
      the guests that run
  coracle ps -a
      also those that have ended, with their exit codes
  coracle rm $(coracle ps -q -f status=exited)
      removes what is left of the guests that have ended
  coracle ps --json | jq -r '.[].name'
      for programs")]
pub struct Args {
    /// List also the guests that have ended
    #[arg(short, long)]
    all: bool,

    /// List the guests with this status only: status=running, status=paused or status=exited
    #[arg(short, long, value_name = "status=STATUS", value_parser = filter)]
    filter: Option<Filter>,

    /// Print the names only
    #[arg(short, long)]
    quiet: bool,

    /// Print a JSON array, with all that is known of each guest
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

/// The status of the guests that are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Filter(&'static str);

/// What is known of a guest.
#[derive(Serialize)]
pub(super) struct Known {
    name: String,
    status: &'static str,
    directory: String,
    #[serde(flatten)]
    made: Made,
    #[serde(flatten)]
    ended: Option<Ended>,
}

const RUNNING: &str = "running";
const PAUSED: &str = "paused";
const ENDED: &str = "exited";

/// Characters of a kernel's name and of a command that are shown.
const SHOWN: usize = 24;

pub fn execute(args: &Args) -> Result<u8, Error> {
    let mut lines = Vec::new();
    let code = named::for_all(|place, guest| {
        let line = known(place, &guest);
        let is_wanted = match args.filter {
            Some(Filter(status)) => line.status == status,
            None => args.all || line.status != ENDED,
        };
        lines.extend(is_wanted.then_some(line));
        Ok(())
    })?;
    const WHAT: &str = "print the guests";
    if args.json {
        let text = serde_json::to_string_pretty(&lines).map_err(|error| super::system(WHAT)(error.into()))?;
        print(WHAT, text + "\n")?;
    } else if args.quiet {
        let names: Vec<_> = lines.iter().map(|line| format!("{}\n", line.name)).collect();
        print(WHAT, names.concat())?;
    } else {
        print(WHAT, table(&lines, now()))?;
    }
    Ok(code)
}

fn filter(text: &str) -> Result<Filter, String> {
    let status = text.strip_prefix("status=");
    let known = [RUNNING, PAUSED, ENDED]
        .into_iter()
        .find(|known| status == Some(*known));
    known
        .map(Filter)
        .ok_or_else(|| format!("give status={RUNNING}, status={PAUSED} or status={ENDED}"))
}

pub(super) fn known(place: &Place, guest: &Guest) -> Known {
    // A guest that ends at this moment has written its end before its lock is free.
    let status = match (guest.is_running(), guest.is_paused()) {
        (false, _) => ENDED,
        (true, true) => PAUSED,
        (true, false) => RUNNING,
    };
    Known {
        name: guest.name().to_string(),
        status,
        directory: place.path_of(guest.name()).to_string_lossy().into_owned(),
        made: guest.made().unwrap_or_default(),
        ended: (status == ENDED).then(|| guest.ended()).flatten(),
    }
}

/// The guests as text, at this time.
fn table(lines: &[Known], now: u64) -> String {
    let head = [
        "NAME", "KERNEL", "COMMAND", "CREATED", "STATUS", "VCPUS", "MEMORY",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(lines.iter().map(|line| {
        [
            line.name.clone(),
            short(line.made.kernel.as_deref().map_or("built-in", file_name)),
            short(&line.made.command().replace(char::is_whitespace, " ")),
            ago(line.made.created, now),
            status(line, now),
            line.made.cpus.to_string(),
            Size(line.made.memory).to_string(),
        ]
    }));
    named::table(&rows)
}

fn status(line: &Known, now: u64) -> String {
    let up = || span(line.made.created, now);
    match (line.status, &line.ended) {
        (RUNNING, _) => format!("Up {}", up()),
        (PAUSED, _) => format!("Up {} (Paused)", up()),
        (_, Some(ended)) => format!("Exited ({}) {}", ended.exit_code, ago(ended.ended, now)),
        (_, None) => "Killed".into(),
    }
}

/// A text that somebody else chose, on one line and not too long.
fn short(text: &str) -> String {
    let text = clean(text);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

pub(super) fn ago(then: u64, now: u64) -> String {
    match then {
        // It is not known.
        0 => String::new(),
        _ => format!("{} ago", span(then, now)),
    }
}

const DAY: u64 = 86_400;
/// From so many days on there is a larger unit.
const DAYS_14: u64 = 14 * DAY;
const DAYS_60: u64 = 60 * DAY;
const DAYS_730: u64 = 730 * DAY;

/// A span of seconds in words. The clock may have been set back meanwhile, or the record lie.
fn span(from: u64, to: u64) -> String {
    let seconds = to.saturating_sub(from);
    let (count, unit) = match seconds {
        0 => return "less than a second".into(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        172_800..DAYS_14 => (seconds / DAY, "day"),
        DAYS_14..DAYS_60 => (seconds / (7 * DAY), "week"),
        DAYS_60..DAYS_730 => (seconds / (30 * DAY), "month"),
        _ => (seconds / (365 * DAY), "year"),
    };
    match count {
        1 => format!("1 {unit}"),
        _ => format!("{count} {unit}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str, status: &'static str, ended: Option<Ended>) -> Known {
        Known {
            name: name.into(),
            status,
            directory: String::new(),
            made: Made {
                created: 1000,
                cpus: 2,
                memory: 128 << 20,
                ..Made::default()
            },
            ended,
        }
    }

    #[test]
    fn the_table_says_how_each_guest_is() {
        let ended = Ended {
            ended: 4600,
            exit_code: 102,
            ..Ended::default()
        };
        let mut other = guest("db", RUNNING, None);
        other.made.kernel = Some("/boot/vmlinuz-6.1".into());
        other.made.cmdline = "quiet -- sleep 5".into();
        let lines = [
            other,
            guest("a-long-name", PAUSED, None),
            guest("old", ENDED, Some(ended)),
            guest("x", ENDED, None),
        ];
        let expected = "\
NAME          KERNEL        COMMAND   CREATED      STATUS                      VCPUS   MEMORY
db            vmlinuz-6.1   sleep 5   2 days ago   Up 2 days                   2       128M
a-long-name   built-in                2 days ago   Up 2 days (Paused)          2       128M
old           built-in                2 days ago   Exited (102) 47 hours ago   2       128M
x             built-in                2 days ago   Killed                      2       128M
";
        assert_eq!(table(&lines, 1000 + 2 * 86_400), expected);
    }

    #[test]
    fn a_record_that_lies_is_shown_without_harm() {
        let mut lying = guest("x", RUNNING, None);
        lying.made = Made {
            created: u64::MAX,
            kernel: Some(format!("/a\x1b[2J\n{}", "k".repeat(100))),
            memory: u64::MAX,
            ..Made::default()
        };
        let text = table(&[lying], 5);
        assert_eq!(text.lines().count(), 2);
        assert!(
            !text.contains('\x1b') && text.lines().all(|line| line.len() < 200),
            "{text}"
        );
    }

    #[test]
    fn a_filter_is_one_of_the_statuses() {
        assert_eq!(filter("status=exited"), Ok(Filter(ENDED)));
        for text in ["", "exited", "status=", "status=gone", "name=web"] {
            assert!(filter(text).unwrap_err().contains("status=paused"), "{text}");
        }
    }

    #[test]
    fn spans_have_one_unit() {
        for (seconds, words) in [
            (0, "less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (7199, "1 hour"),
            (172_800, "2 days"),
            (DAYS_14 - 1, "13 days"),
            (DAYS_14, "2 weeks"),
            (DAYS_60, "2 months"),
            (DAYS_730, "2 years"),
        ] {
            assert_eq!(span(100, 100 + seconds), words);
        }
        assert_eq!(span(100, 50), "less than a second");
    }
}
