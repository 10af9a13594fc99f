//! `coracle images`: lists the images of the store, or checks it.

use std::io::{IsTerminal, stderr};

use coracle_images::store::{Entry, Image, Problem, Store};
use coracle_images::{Digest, Platform, Reference};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{created, existing, short_id, size};
use crate::commands::decimal::decimal;
use crate::commands::{Error, named, print, ps, system};
use crate::console::tell;
use crate::diagnosis::exit_code;
use crate::guests::now;
use crate::plain_text::clean;

const WHAT: &str = "print the images";
/// What stands where there is no name, no tag or no digest.
const NONE: &str = "<none>";

/// List the images that are here
///
/// An image with several names is listed with each of them. One without a name had a name that another image has now: coracle prune
/// removes it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle images
      all images
  coracle images debian
      those of one repository
  coracle images --json | jq -r '.[].name'
      for programs
  coracle images --verify
      reads everything that is kept, and names what is damaged")]
pub struct Args {
    /// List this repository, or this image, only
    #[arg(value_name = "REPOSITORY[:TAG]")]
    only: Option<Reference>,

    /// Nothing: all images are listed anyway
    #[arg(short, long, hide = true)]
    all: bool,

    /// List the images that have no name (dangling=true) or those that have one (dangling=false) only
    #[arg(short, long, value_name = "dangling=true|false", value_parser = filter)]
    filter: Option<Dangling>,

    /// Print the IDs only
    #[arg(short, long)]
    quiet: bool,

    /// Print the names only
    #[arg(long, conflicts_with = "quiet")]
    names: bool,

    /// Show the digests by which registries have the images
    #[arg(long)]
    digests: bool,

    /// Show IDs with all their digits
    #[arg(long)]
    no_trunc: bool,

    /// Print a JSON array, with all that is known of each image
    #[arg(long, conflicts_with_all = ["quiet", "names"])]
    json: bool,

    /// Check the digest of every file, and that each image is whole
    #[arg(long, conflicts_with_all = ["only", "filter", "quiet", "names", "digests", "json"])]
    verify: bool,
}

/// Whether images without a name are listed alone, or left out.
#[derive(Debug, Clone, Copy)]
struct Dangling(bool);

fn filter(text: &str) -> Result<Dangling, String> {
    match text {
        "dangling=true" | "dangling=1" => Ok(Dangling(true)),
        "dangling=false" | "dangling=0" => Ok(Dangling(false)),
        _ => Err("give dangling=true or dangling=false".into()),
    }
}

/// What is known of an image by one of its names.
#[derive(Serialize)]
struct Known {
    /// The whole name, of which the next two are parts.
    name: Option<String>,
    repository: Option<String>,
    tag: Option<String>,
    /// What the registry that it came from calls it.
    digest: Option<String>,
    id: String,
    platform: String,
    /// Seconds since 1970. None if the image does not say.
    created: Option<u64>,
    /// Bytes of all layers when they are unpacked.
    size: u64,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let Some(store) = existing()? else {
        if !args.verify {
            print_all(args, &[])?;
        }
        return Ok(0);
    };
    if args.verify {
        return verify(&store);
    }
    let mut code = 0;
    let mut all = Vec::new();
    for entry in store.entries()?.iter().filter(|entry| is_wanted(entry, args)) {
        let image = store.image(entry, &Platform::default()).map_err(Error::from);
        match image.and_then(|image| known(&store, &image)) {
            Ok(known) => all.push(known),
            Err(error) => {
                let name = entry.name.as_ref().map(Reference::familiar);
                let name = name.unwrap_or_else(|| entry.descriptor.digest().to_string());
                tell(format_args!("coracle: {}: {error}", clean(&name)));
                code = exit_code::FAILED;
            }
        }
    }
    // As Docker does: the newest first.
    all.sort_by(|one, other| (other.created, &one.name).cmp(&(one.created, &other.name)));
    print_all(args, &all)?;
    Ok(code)
}

fn is_wanted(entry: &Entry, args: &Args) -> bool {
    if let Some(Dangling(is_dangling)) = args.filter
        && is_dangling != entry.name.is_none()
    {
        return false;
    }
    let Some(only) = &args.only else { return true };
    let Some(name) = &entry.name else { return false };
    // A tag that was left out was filled in.
    let is_any_tag = only.familiar_repository() + ":latest" == only.familiar() && only.digest().is_none();
    name.repository() == only.repository() && (is_any_tag || name.tag() == only.tag())
}

fn known(store: &Store, image: &Image) -> Result<Known, Error> {
    let name = image.entry.name.as_ref();
    let created = image.configuration.oci.created().as_deref();
    Ok(Known {
        name: name.map(Reference::familiar),
        repository: name.map(Reference::familiar_repository),
        tag: name.and_then(|name| name.tag().map(str::to_owned)),
        digest: image.entry.pulled.as_ref().map(Digest::to_string),
        id: image.id()?.to_string(),
        platform: clean(&image.configuration.platform().to_string()),
        created: created.and_then(created::seconds),
        size: size::whole(store, image)?,
    })
}

fn print_all(args: &Args, all: &[Known]) -> Result<(), Error> {
    let id = |known: &Known| short_id(&known.id, args.no_trunc).to_owned();
    if args.json {
        let text = serde_json::to_string_pretty(all).map_err(|error| system(WHAT)(error.into()))?;
        return print(WHAT, text + "\n");
    }
    if args.names {
        let names: Vec<_> = all.iter().filter_map(|known| known.name.as_deref()).collect();
        return print(
            WHAT,
            names.iter().map(|name| format!("{name}\n")).collect::<String>(),
        );
    }
    if args.quiet {
        let mut ids: Vec<_> = all.iter().map(|known| id(known) + "\n").collect();
        ids.dedup();
        return print(WHAT, ids.concat());
    }
    let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.into());
    let now = now();
    let row = |known: &Known| {
        let created = known
            .created
            .map_or("N/A".into(), |created| ps::ago(created, now));
        [
            cell(&known.repository),
            cell(&known.tag),
            cell(&known.digest),
            id(known),
            created,
            decimal(known.size),
        ]
    };
    let head = ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned);
    let rows: Vec<_> = [head].into_iter().chain(all.iter().map(row)).collect();
    match args.digests {
        true => print(WHAT, named::table(&rows)),
        false => {
            let rows: Vec<_> = rows
                .into_iter()
                .map(|[a, b, _, c, d, e]| [a, b, c, d, e])
                .collect();
            print(WHAT, named::table(&rows))
        }
    }
}

/// Reads all that is in the store. The exit code says whether it is as it should be.
fn verify(store: &Store) -> Result<u8, Error> {
    let target = match stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{bytes} checked") {
        bar.set_style(style);
    }
    let problems = store.verify(|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let problems = problems?;
    let lines = problems.iter().map(|problem| clean(&line(problem)) + "\n");
    print(WHAT, lines.collect::<String>())?;
    if problems.is_empty() {
        return Ok(0);
    }
    tell(
        "coracle: some of what is kept of images is damaged: remove the files that are named (rm FILE), and pull or load \
         their images again",
    );
    Ok(exit_code::FAILED)
}

fn line(problem: &Problem) -> String {
    match problem {
        Problem::File { path, why } => format!("{}: {why}", path.display()),
        Problem::Image { name, manifest, why } => {
            let name = name.as_ref().map(Reference::familiar);
            format!("{}: {why}", name.unwrap_or_else(|| manifest.to_string()))
        }
    }
}
