//! `coracle load`: images from an archive.

use std::collections::HashSet;
use std::io::{IsTerminal, Seek, stdin};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use coracle_images::load::{Loaded, load, load_stream};
use coracle_images::{Platform, Reference};

use super::ready::make_root;
use super::store;
use super::unpacking::confine_reader;
use crate::commands::{Error, print, system};

const STDIN: &str = "/dev/stdin";

/// Take images from an archive or a directory
///
/// It is an archive of docker save, podman save or coracle save, an OCI archive, or a directory with an OCI layout.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle load -i debian.tar
  docker save debian:12 | coracle load
  coracle load -i layout
      a directory with an OCI layout, as skopeo and umoci write it

Archives may be compressed by gzip or zstd.")]
pub struct Args {
    /// The archive or directory [default: stdin]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// The platform for which images are taken
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", default_value_t)]
    platform: Platform,

    /// Print nothing but names or IDs
    #[arg(short, long)]
    quiet: bool,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let input = args.input.as_deref().filter(|path| *path != Path::new("-"));
    let input = match input {
        None if stdin().is_terminal() => {
            return Err(Error::Command(
                "stdin is a terminal: give an archive by -i FILE, or send one through a pipe".into(),
            ));
        }
        None if is_whole_file()? => Some(Path::new(STDIN)),
        input => input,
    };
    let store = store()?;
    confine_reader(&store, input);
    let loaded = match input {
        Some(path) => load(path, &store, &args.platform)?,
        None => load_stream(stdin(), &store, &args.platform)?,
    };
    for image in &loaded {
        if let Ok(image) = store.find(&image.id.to_string(), &args.platform) {
            make_root(&store, &image);
        }
    }
    let mut told = HashSet::new();
    let lines = loaded.iter().flat_map(|image| lines(image, args.quiet));
    // An archive may have an image once for each of its names.
    let lines = lines.filter(|line| told.insert(line.clone()));
    print("print what was loaded", lines.collect::<String>())?;
    Ok(0)
}

/// Whether stdin is a file of which nothing was read: it need not be copied before it is understood.
fn is_whole_file() -> Result<bool, Error> {
    let file = stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let mut file = file.map_err(system("read stdin"))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    Ok(is_file && file.stream_position().is_ok_and(|position| position == 0))
}

fn lines(image: &Loaded, is_quiet: bool) -> Vec<String> {
    let names: Vec<_> = image.names.iter().map(Reference::familiar).collect();
    let (what, all) = match names.is_empty() {
        true => ("Loaded image ID: ", vec![image.id.to_string()]),
        false => ("Loaded image: ", names),
    };
    let what = if is_quiet { "" } else { what };
    all.iter().map(|text| format!("{what}{text}\n")).collect()
}
