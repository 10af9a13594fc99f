//! `coracle pause` and `coracle unpause`.

use super::{Error, named};
use crate::guests::control::PATIENCE;

/// Stop guests for a while: no vCPU runs, and no disk works
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle pause web
      returns when the guest stands still; coracle ps says (Paused)")]
pub struct PauseArgs {
    /// Names of guests
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Let guests that were paused go on
///
/// Their clocks go on with the time of the host.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle unpause web")]
pub struct UnpauseArgs {
    /// Names of guests
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub fn pause(args: &PauseArgs) -> Result<u8, Error> {
    ask(&args.names, "/pause")
}

pub fn unpause(args: &UnpauseArgs) -> Result<u8, Error> {
    ask(&args.names, "/resume")
}

fn ask(names: &[String], path: &str) -> Result<u8, Error> {
    named::for_each(names, |_, guest| {
        guest.ask("PUT", path, PATIENCE)?;
        Ok(guest.name().to_string())
    })
}
