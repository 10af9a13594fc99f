//! `coracle wait`: waits until guests have ended.

use super::{Error, named, tell};
use crate::diagnosis::exit_code;

/// Wait until guests have ended, and print their exit codes
///
/// An exit code is that of coracle run. A guest whose process was killed left none: then 137 is printed, as for any program that
/// SIGKILL ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle wait web
      waits for one guest
  test \"$(coracle wait web)\" = 0
      in a script: whether the guest powered itself off")]
pub struct Args {
    /// Names of guests
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    named::for_each(&args.names, |_, guest| {
        let code = guest.wait()?.map(|ended| ended.exit_code).unwrap_or_else(|| {
            tell(format_args!(
                "coracle: the process of guest '{}' was killed, so there is no exit code of it",
                guest.name()
            ));
            exit_code::from_signal(libc::SIGKILL)
        });
        Ok(code.to_string())
    })
}
