//! `coracle rm`: removes what is left of guests that have ended.

use super::{Error, named};
use crate::guests;

/// Remove what is left of guests that have ended: their logs and exit codes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle rm web
      the name is free again
  coracle rm -f $(coracle ps -aq)
      every guest, also those that run")]
pub struct Args {
    /// Names of guests
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// End a guest that runs, as if its power was cut
    #[arg(short, long)]
    force: bool,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    named::for_each(&args.names, |place, guest| {
        if args.force {
            guest.kill(libc::SIGKILL)?;
            guest.wait()?;
        }
        match place.remove(guest) {
            // Another command found it ended, and nothing of it was to be left.
            Err(guests::Error::Unknown(_)) if args.force => (),
            removed => removed?,
        }
        Ok(guest.name().to_string())
    })
}
