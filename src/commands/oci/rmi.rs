//! `coracle rmi`: removes images.

use coracle_images::Error as ImageError;
use coracle_images::store::missing;

use super::existing;
use crate::commands::{Error, print};
use crate::console::tell;

/// Remove images by their names or IDs
///
/// A name is removed, and with an image's last name the image. Layers that other images need stay, and so does an image that a guest
/// uses.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle rmi debian:12
  coracle rmi -f 3b1dae6a6517
      by its ID, with all its names
  coracle rmi $(coracle images -q -f dangling=true)
      those that have no name")]
pub struct Args {
    /// Names of images, or IDs or their first digits
    #[arg(required = true, value_name = "NAME")]
    images: Vec<String>,

    /// Remove also an ID that has several names; what is not there is no error
    #[arg(short, long)]
    force: bool,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let store = existing()?;
    let mut code = 0;
    for text in &args.images {
        let removed = match &store {
            Some(store) => store.remove(text, args.force),
            None => Err(missing(text)),
        };
        match removed {
            Ok(removed) => {
                let untagged = removed
                    .untagged
                    .iter()
                    .map(|name| format!("Untagged: {}\n", name.familiar()));
                let deleted = removed.image.iter().map(|id| format!("Deleted: {id}\n"));
                let lines: String = untagged.chain(deleted).collect();
                print("print what was removed", lines)?;
            }
            Err(error) => {
                let is_fine = args.force && matches!(error, ImageError::Missing(_));
                let error = Error::from(error);
                tell(format_args!("coracle: {error}"));
                if !is_fine {
                    code = code.max(error.exit_code());
                }
            }
        }
    }
    Ok(code)
}
