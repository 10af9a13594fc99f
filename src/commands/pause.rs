//! `coracle pause` and `coracle unpause`.

use std::time::{Duration, Instant};

use super::{Error, named};
use crate::guests::Guest;
use crate::guests::control::PATIENCE;
use crate::program::set_clock;

/// How long the agent of a guest that goes on may take to set its clock.
const CLOCK: Duration = Duration::from_secs(1);

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
/// Their clocks go on with the time of the host; where there is an agent, it sets the clock to the host's.
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
    named::for_each(&args.names, |_, guest| {
        guest.ask("PUT", "/pause", PATIENCE)?;
        Ok(guest.name().to_string())
    })
}

pub fn unpause(args: &UnpauseArgs) -> Result<u8, Error> {
    named::for_each(&args.names, |_, guest| {
        let was_paused = guest.is_paused();
        guest.ask("PUT", "/resume", PATIENCE)?;
        if was_paused {
            correct_clock(guest);
        }
        Ok(guest.name().to_string())
    })
}

/// Has the guest's agent set its clock. A guest without one, or whose agent is busy, goes on with the clock that it has.
fn correct_clock(guest: &Guest) {
    let deadline = Instant::now() + CLOCK;
    let set = guest
        .call_agent(CLOCK)
        .map(|(connection, _)| set_clock(connection, deadline));
    match set {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("the clock of guest '{}' is not set: {error}", guest.name()),
        Err(error) => log::debug!("the clock of guest '{}' is not set: {error}", guest.name()),
    }
}
