//! `coracle rename`: gives a guest another name.

use super::{Error, named};
use crate::guests::Name;

/// Give a guest another name, also while it runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle rename web old-web")]
pub struct Args {
    /// Its name
    #[arg(value_name = "NAME")]
    from: String,

    /// The name that it is to have
    #[arg(value_name = "NEW_NAME")]
    to: Name,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let (place, guest) = named::find(&args.from)?;
    place.rename(&guest, &args.to)?;
    Ok(0)
}
