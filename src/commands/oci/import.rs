//! `coracle import`: a root file system becomes an image.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, stdin};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use coracle_archive::pack;
use coracle_images::load::{Import, import};
use coracle_images::store::Image;
use coracle_images::{Platform, Reference};
use serde_json::{Map, Value};

use super::change::Change;
use super::ready::make_root;
use super::store;
use super::unpacking::confine_reader;
use crate::commands::{Error, print, system};
use crate::console::tell;
use crate::plain_text::{clean, shell_word};

/// Make an image of a tar archive or a directory
///
/// The image has one layer, and says nothing of how it is run but what --change adds. Its ID is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle import root.tar.zst mine
  mmdebstrap bookworm | coracle import - debian:mine
  coracle import -c 'CMD [\"/bin/bash\"]' -c 'ENV LANG=C.UTF-8' root mine:2
      a directory. Only root's copy has all owners: files that you own are yours in the image, too

Archives may be compressed by gzip or zstd.")]
pub struct Args {
    /// A tar archive, a directory, or - for an archive on stdin
    #[arg(value_name = "FILE|DIR|-")]
    source: PathBuf,

    /// The image's name [default: it has only an ID]
    #[arg(value_name = "NAME[:TAG]")]
    reference: Option<Reference>,

    /// Say how the image is run: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR, as in a Dockerfile; again
    /// for more
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<Change>,

    /// A word on where it comes from, for the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// What the programs in it are for
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", default_value_t)]
    platform: Platform,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    if args
        .reference
        .as_ref()
        .is_some_and(|name| name.digest().is_some())
    {
        return Err(Error::Command(
            "an image that is imported gets a name without a digest".into(),
        ));
    }
    let path = &args.source;
    let is_stdin = path == Path::new("-");
    if is_stdin && stdin().is_terminal() {
        return Err(Error::Command(
            "stdin is a terminal: name an archive or a directory, or send an archive through a pipe".into(),
        ));
    }
    if path.to_str().is_some_and(|text| text.contains("://")) {
        let url = shell_word(path);
        return Err(Error::Command(format!(
            "{url} is no file; coracle import fetches nothing: curl -L {url} | coracle import - NAME"
        )));
    }
    let image = match is_stdin {
        true => make(stdin(), args)?,
        false if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) => of_directory(path, args)?,
        false => {
            let file = File::open(path).map_err(|error| {
                let path = path.to_owned();
                coracle_images::Error::File {
                    what: "open",
                    path,
                    source: error,
                }
            })?;
            make(file, args)?
        }
    };
    let id = image.id()?;
    print("print the image's ID", format!("{id}\n"))?;
    Ok(0)
}

fn make(tar: impl Read + Send, args: &Args) -> Result<Image, Error> {
    let store = store()?;
    // A directory is read by another thread.
    confine_reader(&store, None);
    let mut config = Map::new();
    for change in &args.changes {
        change.apply(&mut config);
    }
    let config = serde_json::from_value(Value::Object(config))
        .map_err(|error| Error::Command(format!("the changes make no sense together: {error}")))?;
    let how = Import {
        name: args.reference.as_ref(),
        platform: args.platform.clone(),
        config: Some(config),
        created: SystemTime::now(),
        comment: args
            .message
            .clone()
            .unwrap_or_else(|| format!("Imported from {}", clean(&args.source.to_string_lossy()))),
    };
    let image = import(tar, &store, &how)?;
    make_root(&store, &image);
    Ok(image)
}

/// Packs the directory on another thread, and makes the image of what comes out.
fn of_directory(path: &Path, args: &Args) -> Result<Image, Error> {
    const WHAT: &str = "pack the directory";
    let (reader, writer) = io::pipe().map_err(system(WHAT))?;
    thread::scope(|scope| {
        let packer = thread::Builder::new()
            .name("packer".into())
            .spawn_scoped(scope, move || {
                let mut warn = |text: &str| tell(format_args!("coracle: {}", clean(text)));
                pack(path, b".", true, writer, &mut warn).map(drop)
            })
            .map_err(system(WHAT))?;
        let packed = Packed {
            reader,
            packer: Some(packer),
        };
        make(packed, args)
    })
}

/// What the packer writes. Where that ends early, so does this, with its error.
struct Packed<'scope> {
    reader: io::PipeReader,
    packer: Option<thread::ScopedJoinHandle<'scope, io::Result<()>>>,
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.reader.read(buffer)? {
            0 => match self.packer.take().map(thread::ScopedJoinHandle::join) {
                None | Some(Ok(Ok(()))) => Ok(0),
                Some(Ok(Err(error))) => Err(error),
                Some(Err(_)) => Err(io::Error::other("the directory could not be packed")),
            },
            count => Ok(count),
        }
    }
}
