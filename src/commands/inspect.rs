//! `coracle inspect`: prints what is known of guests, as JSON.

use serde::Serialize;

use super::named::find;
use super::ps::{Known, known};
use super::{Error, print, system};
use crate::guests::Process;

/// Print what is known of guests, as a JSON array
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle inspect web
      what it was made of, whether it runs, its process and its directory
  coracle inspect web | jq -r '.[0].process'
      the number of its process")]
pub struct Args {
    /// Names of guests
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    known: Known,
    /// The number of the guest's process, while it runs.
    process: Option<i32>,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    const WHAT: &str = "print what is known of the guests";
    let inspect = |name: &String| -> Result<_, Error> {
        let (place, guest) = find(name)?;
        Ok(Inspected {
            known: known(&place, &guest),
            process: guest.process()?.as_ref().map(Process::number),
        })
    };
    let inspected = args.names.iter().map(inspect).collect::<Result<Vec<_>, _>>()?;
    let text = serde_json::to_string_pretty(&inspected).map_err(|error| system(WHAT)(error.into()))?;
    print(WHAT, text + "\n")?;
    Ok(0)
}
