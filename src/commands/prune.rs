//! `coracle prune`: removes what is left of all guests that have ended.

use super::{Error, print};
use crate::guests::{self, Place};

/// Remove what is left of all guests that have ended, and print their names
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle prune")]
pub struct Args {}

pub fn execute(_: &Args) -> Result<u8, Error> {
    let Some(place) = Place::open()? else {
        return Ok(0);
    };
    for guest in place.guests()? {
        let guest = guest?;
        match place.remove(&guest) {
            Ok(()) => print("print a name", format!("{}\n", guest.name()))?,
            // It runs, or somebody else was faster.
            Err(guests::Error::Runs(_) | guests::Error::Unknown(_)) => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(0)
}
