//! `coracle pull`: gets an image from a registry.

use coracle_images::registry::{Client, Progress};
use coracle_images::{Platform, Reference};

use super::interrupt::cancellable;
use super::progress::Shown;
use super::ready::make_root;
use super::{credentials, options, store};
use crate::commands::{Error, print};
use crate::console::tell;

/// Get an image from a registry
///
/// What is here of it already, also from a pull that was stopped, is not got again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle pull debian:12
      from Docker's registry, as docker.io/library/debian:12
  coracle pull me/tools@sha256:2d4f6a8c0e1b3d5f7a9c1e3b5d7f9a1c3e5b7d9f1a3c5e7b9d1f3a5c7e9b1d3f
      by its digest: exactly this one
  coracle pull localhost:5000/tools
      from another registry
  coracle pull --platform linux/arm64 debian:12
      for another platform: to look into it or to save it

A registry on this machine, as localhost:5000, may speak plain HTTP. Credentials are those of Docker and podman, and of coracle \
login.")]
pub struct Args {
    /// The image: NAME:TAG or NAME@DIGEST, behind HOST/ or HOST:PORT/ where it is not Docker's registry
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    reference: Reference,

    /// The platform: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", default_value_t)]
    platform: Platform,

    /// The registry may use plain HTTP, or a certificate that nobody has signed
    #[arg(long)]
    insecure: bool,

    /// Show no progress, and print the image's name only
    #[arg(short, long)]
    quiet: bool,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let store = store()?;
    let name = &args.reference;
    let shown = Shown::new();
    let progress: &dyn Progress = match args.quiet {
        true => &(),
        false => {
            let version = name.tag().map(str::to_owned);
            let version = version.or_else(|| name.digest().map(ToString::to_string));
            tell(format_args!(
                "{}: Pulling from {}",
                version.unwrap_or_default(),
                name.path()
            ));
            &shown
        }
    };
    let pulled = cancellable(|cancel| {
        let client = Client::new(options(args.insecure), credentials(), cancel.clone())?;
        client.pull(name, &args.platform, &store, progress)
    });
    shown.finish();
    let pulled = pulled?;
    make_root(&store, &pulled.image);
    if !args.quiet {
        let status = match pulled.is_new {
            true => "Downloaded newer image for",
            false => "Image is up to date for",
        };
        tell(format_args!("Digest: {}", pulled.digest));
        tell(format_args!("Status: {status} {}", name.familiar()));
    }
    print("print the image's name", format!("{name}\n"))?;
    Ok(0)
}
