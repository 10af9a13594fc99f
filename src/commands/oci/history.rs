//! `coracle history`: how an image was made.

use coracle_images::Platform;
use coracle_images::store::{Image, Store};

use super::{created, short_id, size, store_with};
use crate::commands::decimal::decimal;
use crate::commands::{Error, named, print, ps};
use crate::guests::now;
use crate::plain_text::clean;

/// Characters of a step's command that are shown.
const SHOWN: usize = 45;
/// The ID of a step: only the last one is an image.
const MISSING: &str = "<missing>";

/// Show how an image was made
///
/// Its steps are listed, the newest first, with the size of what each has added.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle history debian:12
  coracle history --no-trunc debian:12
      with each step's whole command")]
pub struct Args {
    /// A name of the image, or its ID or the first digits of it
    #[arg(value_name = "NAME")]
    image: String,

    /// Show IDs and commands whole
    #[arg(long)]
    no_trunc: bool,

    /// Print the IDs only
    #[arg(short, long)]
    quiet: bool,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let store = store_with(&args.image)?;
    let image = store.find(&args.image, &Platform::default())?;
    let rows = rows(&store, &image, args)?;
    let text = match args.quiet {
        true => rows.iter().map(|row| row[0].clone() + "\n").collect(),
        false => {
            let head = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned);
            named::table(&[&[head], &rows[..]].concat())
        }
    };
    print("print the history", text)?;
    Ok(0)
}

/// A row for each step, the newest first.
fn rows(store: &Store, image: &Image, args: &Args) -> Result<Vec<[String; 5]>, Error> {
    let id = image.id()?.to_string();
    let mut sizes = size::layers(store, image)?.into_iter();
    let now = now();
    let history = image.configuration.oci.history().as_deref().unwrap_or_default();
    let mut rows = Vec::new();
    for step in history {
        let size = match step.empty_layer().unwrap_or(false) {
            true => 0,
            false => sizes.next().unwrap_or(0),
        };
        let created = step.created().as_deref().and_then(created::seconds);
        rows.push([
            MISSING.to_owned(),
            created.map_or("N/A".into(), |created| ps::ago(created, now)),
            command(step.created_by().as_deref().unwrap_or_default(), args.no_trunc),
            decimal(size),
            clean(step.comment().as_deref().unwrap_or_default()),
        ]);
    }
    // Of layers without a step nothing else is known.
    rows.extend(sizes.map(|size| {
        let unknown = String::new;
        [
            MISSING.to_owned(),
            "N/A".into(),
            unknown(),
            decimal(size),
            unknown(),
        ]
    }));
    rows.reverse();
    if let Some(newest) = rows.first_mut() {
        newest[0] = short_id(&id, args.no_trunc).to_owned();
    }
    Ok(rows)
}

/// A step's command on one line.
fn command(text: &str, is_whole: bool) -> String {
    let text = clean(&text.replace(char::is_whitespace, " "));
    match text.char_indices().nth(SHOWN) {
        Some(_) if !is_whole => {
            let shown: String = text.chars().take(SHOWN - 1).collect();
            format!("{shown}…")
        }
        _ => text,
    }
}
