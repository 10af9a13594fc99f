//! `coracle prune`: removes what is left of all guests that have ended.

use super::{Error, named, print};
use crate::guests;

/// Remove what is left of all guests that have ended, and print their names
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle prune")]
pub struct Args {
    /// Nothing: no question is asked anyway
    #[arg(short, long, hide = true)]
    force: bool,
}

pub fn execute(_: &Args) -> Result<u8, Error> {
    named::for_all(|place, guest| match place.remove(&guest) {
        Ok(()) => print("print a name", format!("{}\n", guest.name())),
        // It runs, or somebody else was faster.
        Err(guests::Error::Runs(_) | guests::Error::Unknown(_)) => Ok(()),
        Err(error) => Err(error.into()),
    })
}
