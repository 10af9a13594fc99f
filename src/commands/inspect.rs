//! `coracle inspect`: prints what is known of guests and images, as JSON.

use serde::Serialize;

use super::named::find;
use super::oci::known as image;
use super::ps::{Known, known};
use super::{Error, print, system};
use crate::guests::{self, Process};

/// Print what is known of guests and images, as a JSON array
///
/// A name is that of a guest if there is one, and else that of an image. An image has the fields that docker inspect prints.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle inspect web
      what it was made of, whether it runs, its process and its directory
  coracle inspect web | jq -r '.[0].process'
      the number of its process
  coracle inspect --type image debian:12 | jq '.[0].Config'
      how an image is run")]
pub struct Args {
    /// Names of guests, or names or IDs of images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// What the names are of [default: guests, and else images]
    #[arg(long = "type", value_name = "WHAT")]
    kind: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    #[value(alias = "container")]
    Guest,
    Image,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Inspected {
    Guest {
        #[serde(flatten)]
        known: Box<Known>,
        /// The number of the guest's process, while it runs.
        process: Option<i32>,
    },
    Image(Box<image::Known>),
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    const WHAT: &str = "print what is known";
    let inspected = args
        .names
        .iter()
        .map(|name| inspect(name, args.kind))
        .collect::<Result<Vec<_>, _>>()?;
    let text = serde_json::to_string_pretty(&inspected).map_err(|error| system(WHAT)(error.into()))?;
    print(WHAT, text + "\n")?;
    Ok(0)
}

fn inspect(name: &str, kind: Option<Kind>) -> Result<Inspected, Error> {
    let image = || Ok(Inspected::Image(Box::new(image::known(name)?)));
    if kind == Some(Kind::Image) {
        return image();
    }
    let unknown = match guest(name) {
        Err(error @ Error::Guest(guests::Error::Unknown(_))) if kind.is_none() => error,
        found => return found,
    };
    match image() {
        Err(Error::Image(error)) if error.is_missing() => Err(unknown_at_all(name, unknown)),
        found => found,
    }
}

fn guest(name: &str) -> Result<Inspected, Error> {
    let (place, guest) = find(name)?;
    Ok(Inspected::Guest {
        known: Box::new(known(&place, &guest)),
        process: guest.process()?.as_ref().map(Process::number),
    })
}

fn unknown_at_all(name: &str, unknown: Error) -> Error {
    match image::familiar(name) {
        Some(image) => Error::Command(format!(
            "{unknown}, and no image {image} (coracle images lists all, coracle pull {image} gets it)"
        )),
        None => unknown,
    }
}
