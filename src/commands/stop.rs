//! `coracle stop`: asks guests to power off, and ends those that do not.

use std::time::{Duration, Instant};

use super::{Error, named, tell};
use crate::guests::{self, Guest};
use crate::program::power_off;

/// How long a guest's process may take to end in order when it is told to.
const ORDERLY_END: Duration = Duration::from_secs(5);

/// Ask guests to power off, and end those that have not done so after a while
///
/// The built-in guest is asked by its agent: it ends its programs and unmounts its disks. So is any other with an agent (coracle agent),
/// and one without by its ACPI power button: a system with systemd shuts down then. One that cannot be asked, or does not heed it, is ended as if its power was cut,
/// and a line on stderr says so.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle stop web
      gives the guest 10 seconds
  coracle stop -t 60 web db
      gives each a minute, one after the other")]
pub struct Args {
    /// Names of guests
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// How long a guest may take to power off; 0 ends it without asking
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let patience = Duration::from_secs(args.time.into());
    named::for_each(&args.names, |_, guest| {
        stop(guest, patience)?;
        Ok(guest.name().to_string())
    })
}

/// A guest that has ended already is as the person wants it, as it is for Docker.
fn stop(guest: &Guest, patience: Duration) -> Result<(), Error> {
    let Some(process) = guest.process()? else {
        return Ok(());
    };
    let deadline = Instant::now() + patience;
    let left = || deadline.saturating_duration_since(Instant::now());
    let asked = match patience {
        Duration::ZERO => Ok(()),
        _ => ask_to_power_off(guest, deadline),
    };
    let why = match asked {
        Err(error) if cannot_be_asked(guest, left()) => error.to_string(),
        asked => {
            // A guest that does not answer may be powering off already, and not have written everything to its disks.
            if guest.wait_for(&process, left())? {
                return Ok(());
            }
            match asked {
                Ok(()) => format!("it did not power off within {} s", patience.as_secs()),
                Err(error) => error.to_string(),
            }
        }
    };
    // After a signal its process would ask the guest once more.
    if guest.ask("PUT", "/end", ORDERLY_END).is_err() && !guest.signal(&process, libc::SIGTERM)? {
        return Ok(());
    }
    tell(format_args!("coracle: guest '{}' was ended: {why}", guest.name()));
    if !guest.wait_for(&process, ORDERLY_END)? {
        guest.signal(&process, libc::SIGKILL)?;
        guest.wait()?;
    }
    Ok(())
}

/// Whether the guest has nothing that can be asked, as far as its process says.
fn cannot_be_asked(guest: &Guest, patience: Duration) -> bool {
    let known = guest.ask("GET", "/guest", patience);
    known.is_ok_and(|known| known["can_be_asked"] == false)
}

/// Asks the guest to power off, by its agent or by its power button, and does not wait for what it makes of that.
pub(super) fn ask_to_power_off(guest: &Guest, deadline: Instant) -> Result<(), Error> {
    let left = || deadline.saturating_duration_since(Instant::now());
    // A guest that is paused hears nothing.
    if guest.is_paused() {
        guest.ask("PUT", "/resume", left())?;
    }
    let agent = guest.call_agent(left()).and_then(|(connection, _)| {
        power_off(connection, deadline).map_err(|source| guests::Error::Guest {
            what: "ask the agent in",
            name: guest.name().clone(),
            source,
        })
    });
    // A guest has an agent or a button, or neither. It may have ended meanwhile.
    if let Err(why) = agent
        && guest.ask("PUT", "/power-button", left()).is_err()
        && guest.is_running()
    {
        return Err(why.into());
    }
    Ok(())
}
