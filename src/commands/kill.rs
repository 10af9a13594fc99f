//! `coracle kill`: sends a signal to the processes of guests.

use super::{Error, named};
use crate::guests;

/// End guests at once, as if their power was cut, or send their processes another signal
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle kill web
      ends the guest
  coracle kill -s TERM web
      asks the guest to power off, as coracle stop does, with 10 seconds for it

A guest that was started for a command (run -- COMMAND) passes a signal other than KILL on to the command, which may ignore it.")]
pub struct Args {
    /// Names of guests
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// The signal, by its name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    signal: i32,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    named::for_each(&args.names, |_, guest| {
        if !guest.kill(args.signal)? {
            return Err(guests::Error::HasEnded(guest.name().clone()).into());
        }
        // Then the next command finds it ended.
        if args.signal == libc::SIGKILL {
            guest.wait()?;
        }
        Ok(guest.name().to_string())
    })
}

/// A signal by its name, with or without SIG, or by its number.
pub fn signal(text: &str) -> Result<i32, String> {
    const NAMES: [(&str, i32); 14] = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("ABRT", libc::SIGABRT),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM),
        ("CONT", libc::SIGCONT),
        ("STOP", libc::SIGSTOP),
        ("TSTP", libc::SIGTSTP),
        ("WINCH", libc::SIGWINCH),
        ("PWR", libc::SIGPWR),
    ];
    /// Programs have the first two of Linux's real-time signals not for themselves.
    const RTMIN: i32 = 34;
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, number)) => Some(*number),
        None => {
            let number = match name.strip_prefix("RTMIN") {
                Some("") => Some(RTMIN),
                Some(more) => more.parse::<i32>().ok().and_then(|more| more.checked_add(RTMIN)),
                None => text.parse().ok(),
            };
            number.filter(|number| (1..=64).contains(number))
        }
    };
    number.ok_or_else(|| {
        let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        format!("give a number from 1 to 64, or one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_and_a_number() {
        for text in ["TERM", "SIGTERM", "term", "sigterm", "15"] {
            assert_eq!(signal(text), Ok(libc::SIGTERM), "{text}");
        }
        assert_eq!(signal("SIGRTMIN+3"), Ok(37));
        for text in ["", "SIG", "0", "65", "-9", "NOPE", "RTMIN+31"] {
            assert!(signal(text).unwrap_err().contains("KILL"), "{text}");
        }
    }
}
