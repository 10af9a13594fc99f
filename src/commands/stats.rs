//! `coracle stats`: what guests use of the host.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Error, named, print, system, tell};
use crate::guests::{self, Guest};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a guest's process may take to say what its guest has done.
const PATIENCE: Duration = Duration::from_secs(1);
/// The reasons of exits that are shown, by KVM's names and ours.
const REASONS: [(&str, &str); 4] = [
    ("io_exits", "io"),
    ("mmio_exits", "mmio"),
    ("halt_exits", "halt"),
    ("irq_exits", "irq"),
];
/// Where the counts of what goes into a guest and out of it are in what its process says.
const DISKS: [&str; 2] = ["/disks/read", "/disks/written"];
const SOCKETS: [&str; 2] = ["/sockets/received", "/sockets/sent"];
/// Moves a terminal's cursor to the first line, and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Show what guests use of the host's processors and memory, once a second
///
/// CPU is the time of the whole process, VCPUS that of each vCPU, in percent of one of the host's processors. EXITS is how often a
/// second the processor leaves the guest, and some of the reasons: port I/O (io), MMIO, halts, interrupts of the host (irq). DISKS is
/// what the guest reads from its disks and writes to them, SOCKETS what it receives and sends through its socket device (exec,
/// cp, --vsock). MEMORY is what the guest has of the host's memory, and what it may have of it at most; what guests share, such
/// as the built-in kernel, counts for each of them. OVERHEAD is what Coracle's process has beside it for itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle stats
      all guests that run, until Ctrl-C
  coracle stats web db
      until both have ended
  coracle stats --no-stream web
      one guest, once")]
pub struct Args {
    /// Names of guests [default: all that run]
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Print one look and end
    #[arg(long)]
    no_stream: bool,
}

/// What a process has used at a moment.
struct Look {
    at: Instant,
    /// Of the whole process.
    time: Duration,
    /// Of each vCPU, by its number.
    vcpus: BTreeMap<u8, Duration>,
    /// What the guest has done, as its process counts it. None if that does not answer.
    activity: Option<Value>,
    /// What that process has of the host's memory, as it says itself.
    memory: Option<Value>,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let clear = match io::stdout().is_terminal() {
        true => CLEAR,
        false => "",
    };
    let mut named = args
        .names
        .iter()
        .map(|name| find_running(name))
        .collect::<Result<Vec<_>, _>>()?;
    loop {
        let all;
        let guests = match args.names.is_empty() {
            true => {
                all = running()?;
                &all
            }
            false => {
                named.retain(is_still_running);
                if named.is_empty() {
                    return Ok(0);
                }
                &named
            }
        };
        let before: Vec<_> = guests.iter().map(|guest| look(guest).ok().flatten()).collect();
        thread::sleep(INTERVAL);
        let mut rows = vec![
            [
                "NAME", "CPU", "VCPUS", "EXITS", "DISKS", "SOCKETS", "MEMORY", "OVERHEAD",
            ]
            .map(str::to_owned),
        ];
        for (guest, before) in guests.iter().zip(before) {
            // A guest that ended meanwhile is left out.
            if let (Some(before), Ok(Some(mut now))) = (before, look(guest)) {
                now.memory = guest.ask("GET", "/memory", PATIENCE).ok();
                rows.push(row(guest, &before, &now));
            }
        }
        let table = named::table(&rows);
        match args.no_stream {
            true => return print("print what guests use", table).map(|()| 0),
            false => print("print what guests use", format!("{clear}{table}"))?,
        }
    }
}

/// All guests that run.
fn running() -> Result<Vec<Guest>, Error> {
    let mut guests = Vec::new();
    named::for_all(|_, guest| {
        guests.extend(guest.is_running().then_some(guest));
        Ok(())
    })?;
    Ok(guests)
}

/// Tells of one that does not.
fn is_still_running(guest: &Guest) -> bool {
    let is_running = guest.is_running();
    if !is_running {
        tell(format_args!("coracle: guest '{}' has ended", guest.name()));
    }
    is_running
}

fn find_running(name: &str) -> Result<Guest, Error> {
    let (_, guest) = named::find(name)?;
    match guest.is_running() {
        true => Ok(guest),
        false => Err(guests::Error::HasEnded(guest.name().clone()).into()),
    }
}

/// What the guest's process has used; nothing if it does not run.
fn look(guest: &Guest) -> Result<Option<Look>, Error> {
    let Some(process) = guest.process()? else {
        return Ok(None);
    };
    let directory = format!("/proc/{}", process.number());
    let mut look = read(&directory).map_err(system("read what a guest uses"))?;
    look.activity = guest.ask("GET", "/activity", PATIENCE).ok();
    // If it lives still, these were its own files.
    Ok(guest.is_running().then_some(look))
}

fn read(directory: &str) -> io::Result<Look> {
    let at = Instant::now();
    let time = time_of(&fs::read_to_string(format!("{directory}/stat"))?);
    let mut vcpus = BTreeMap::new();
    for task in fs::read_dir(format!("{directory}/task"))? {
        let stat = fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
        if let Some(number) = vcpu_of(&stat) {
            vcpus.insert(number, time_of(&stat).unwrap_or_default());
        }
    }
    Ok(Look {
        at,
        time: time.unwrap_or_default(),
        vcpus,
        activity: None,
        memory: None,
    })
}

/// The number of the vCPU whose thread has this line in its file `stat`; nothing if it is another thread.
fn vcpu_of(stat: &str) -> Option<u8> {
    let (_, name) = stat.split_once('(')?;
    name.rsplit_once(')')?.0.strip_prefix("vcpu-")?.parse().ok()
}

/// The time in user space and in the kernel (proc(5), fields 14 and 15 of `stat`).
fn time_of(stat: &str) -> Option<Duration> {
    // A name may have spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let ticks = next()?.checked_add(next()?)?;
    // SAFETY: a call without pointers.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Some(Duration::from_millis(ticks.saturating_mul(1000) / a_second))
}

fn row(guest: &Guest, before: &Look, now: &Look) -> [String; 8] {
    let passed = (now.at - before.at).as_secs_f64();
    let percent = |before: Duration, now: Duration| {
        format!(
            "{:.0}%",
            now.saturating_sub(before).as_secs_f64() / passed * 100.0
        )
    };
    // One whose thread has just been started has used nothing before.
    let vcpus = now.vcpus.iter().map(|(number, now)| {
        let before = before.vcpus.get(number).copied();
        percent(before.unwrap_or_default(), *now)
    });
    let most = guest.made().map_or(0, |made| made.memory);
    [
        guest.name().to_string(),
        percent(before.time, now.time),
        vcpus.collect::<Vec<_>>().join(" "),
        exits(before, now).unwrap_or_else(unknown),
        transfer(before, now, DISKS).unwrap_or_else(unknown),
        transfer(before, now, SOCKETS).unwrap_or_else(unknown),
        format!("{} / {} MiB", size(now, "guest"), most >> 20),
        size(now, "beside"),
    ]
}

/// In place of what a guest's process does not tell.
fn unknown() -> String {
    "-".into()
}

fn size(look: &Look, of: &str) -> String {
    match look.memory.as_ref().and_then(|memory| memory[of].as_u64()) {
        None => unknown(),
        Some(bytes) if bytes < 10 << 20 => format!("{} KiB", bytes >> 10),
        Some(bytes) => format!("{} MiB", bytes >> 20),
    }
}

/// By how much a count in what two looks know of the guest's doing grew in a second.
fn rate(before: &Look, now: &Look, pointer: &str) -> Option<f64> {
    let count = |look: &Look| look.activity.as_ref()?.pointer(pointer)?.as_u64();
    let passed = (now.at - before.at).as_secs_f64();
    Some(count(now)?.saturating_sub(count(before)?) as f64 / passed)
}

/// The guest's exits a second, and for how many of them there was each reason.
fn exits(before: &Look, now: &Look) -> Option<String> {
    let all = rate(before, now, "/exits/exits")?;
    let reasons = REASONS.iter().filter_map(|(name, shown)| {
        let rate = rate(before, now, &format!("/exits/{name}"))?;
        (rate >= 0.5).then(|| format!("{shown} {rate:.0}"))
    });
    let reasons: Vec<_> = reasons.collect();
    Some(match reasons.is_empty() {
        true => format!("{all:.0}/s"),
        false => format!("{all:.0}/s: {}", reasons.join(", ")),
    })
}

/// What goes into the guest, and out of it, in a second.
fn transfer(before: &Look, now: &Look, [into, out]: [&str; 2]) -> Option<String> {
    let megabytes = |pointer| rate(before, now, pointer).map(|rate| rate / 1e6);
    let (into, out) = (megabytes(into)?, megabytes(out)?);
    Some(format!("{into:.1} / {out:.1} MB/s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_thread_is_found_behind_any_name() {
        let line = |name: &str| format!("42 ({name}) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1");
        for name in ["vcpu-3", "a) b (c", ""] {
            assert_eq!(time_of(&line(name)), Some(Duration::from_secs(2)), "{name}");
        }
        assert_eq!(time_of("42 (x) S 1 2"), None);
        assert_eq!(vcpu_of(&line("vcpu-31")), Some(31));
        for name in ["vcpu-", "vcpu-x", "coracle", "log"] {
            assert_eq!(vcpu_of(&line(name)), None);
        }
    }

    #[test]
    fn rates_are_of_what_a_guest_did_between_two_looks() {
        let at = Instant::now();
        let look = |seconds, activity: Value| Look {
            at: at + Duration::from_secs(seconds),
            time: Duration::ZERO,
            vcpus: BTreeMap::new(),
            activity: Some(activity),
            memory: None,
        };
        let before = look(
            0,
            serde_json::json!({"exits": {"exits": 10, "io_exits": 4}, "disks": {"read": 0, "written": 1_000_000}}),
        );
        let now = look(
            2,
            serde_json::json!({
                "exits": {"exits": 30, "io_exits": 8, "halt_exits": 5},
                "disks": {"read": 3_000_000, "written": 1_000_000}
            }),
        );
        // One that a look lacks is not shown.
        assert_eq!(exits(&before, &now).as_deref(), Some("10/s: io 2"));
        assert_eq!(transfer(&before, &now, DISKS).as_deref(), Some("1.5 / 0.0 MB/s"));
        assert_eq!(transfer(&before, &now, SOCKETS), None);
        assert_eq!(size(&now, "guest"), "-");
        let now = Look {
            memory: Some(serde_json::json!({"guest": 300 << 20, "beside": 400_000})),
            ..now
        };
        assert_eq!(size(&now, "guest"), "300 MiB");
        assert_eq!(size(&now, "beside"), "390 KiB");
        // A guest that lies, or says nothing.
        let nothing = look(3, serde_json::json!({"exits": -1, "disks": {"read": "much"}}));
        assert_eq!(exits(&now, &nothing), None);
        assert_eq!(transfer(&now, &nothing, DISKS), None);
    }

    #[test]
    fn this_process_has_time_and_no_vcpus() {
        let started = Instant::now();
        while read("/proc/self").unwrap().time.is_zero() {
            assert!(started.elapsed() < Duration::from_secs(60));
        }
        assert!(read("/proc/self").unwrap().vcpus.is_empty());
    }
}
