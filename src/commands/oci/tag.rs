//! `coracle tag`: gives an image one more name.

use coracle_images::Reference;

use super::store_with;
use crate::commands::Error;

/// Give an image one more name
///
/// An image that has the name already loses it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle tag debian:12 base
      base, that is docker.io/library/base:latest, is the same image from now on
  coracle tag 3b1dae6a6517 localhost:5000/team/base:1")]
pub struct Args {
    /// A name of the image, or its ID or the first digits of it
    #[arg(value_name = "SOURCE")]
    image: String,

    /// The new name
    #[arg(value_name = "TARGET")]
    target: Reference,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let store = store_with(&args.image)?;
    store.tag(&args.image, &args.target)?;
    Ok(0)
}
