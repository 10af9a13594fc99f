//! `coracle logout`: forgets what a registry is shown.

use super::{credentials, server};
use crate::commands::{Error, print};
use crate::plain_text::clean;

/// Forget the name and the password for a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle logout
      of Docker's registry
  coracle logout registry.example")]
pub struct Args {
    /// The registry: HOST or HOST:PORT [default: docker.io]
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let host = server(args.server.as_deref());
    let shown = clean(host);
    let text = match credentials().erase(host)? {
        true => format!("Removing login credentials for {shown}\n"),
        false => format!("Not logged in to {shown}\n"),
    };
    print("say what was done", text)?;
    Ok(0)
}
