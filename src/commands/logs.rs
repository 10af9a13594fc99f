//! `coracle logs`: prints what a guest has printed on its console.

use std::os::fd::AsFd;

use super::{Error, named, print, system};
use crate::console::{For, wait};
use crate::guests::Guest;

/// Print what a guest has printed on its console
///
/// The last megabyte is kept, also after the guest's end until coracle rm. The bytes are the guest's, unchanged.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle logs web
      everything that is kept
  coracle logs -f --tail 20 web
      the last 20 lines, and then what is printed until the guest ends")]
pub struct Args {
    /// Name of the guest
    name: String,

    /// Go on until the guest ends
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last N lines: a number, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = lines)]
    tail: Lines,
}

/// How many lines at the end are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    All,
    Last(usize),
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let (_, guest) = named::find(&args.name)?;
    show(&guest, args.tail, args.follow)?;
    Ok(0)
}

fn show(guest: &Guest, tail: Lines, follow: bool) -> Result<(), Error> {
    const WHAT: &str = "read the log";
    let mut log = guest.log()?;
    if let Lines::Last(count) = tail {
        log.go_to_last_lines(count).map_err(system(WHAT))?;
    }
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
            print("print the log", bytes)?;
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

fn lines(text: &str) -> Result<Lines, String> {
    match text {
        "all" => Ok(Lines::All),
        _ => text
            .parse()
            .map(Lines::Last)
            .map_err(|_| "give a number of lines, or all".into()),
    }
}
