//! `coracle save`: images as an archive.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write, stdout};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use coracle_images::save::save;
use coracle_images::store::Store;

use super::store_with;
use crate::commands::{Error, system};
use crate::plain_text::shell_word;

const BUFFER: usize = 256 << 10;

/// Write images to an archive that coracle, docker and podman load
///
/// It is an OCI layout as a tar, and has what docker load wants beside that. The same images make the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle save -o debian.tar debian:12
  coracle save debian:12 tools | gzip > images.tar.gz
      two images, which share their layers in the archive, too
  coracle save debian:12 | docker load")]
pub struct Args {
    /// Names of images, or IDs or their first digits
    #[arg(required = true, value_name = "NAME")]
    images: Vec<String>,

    /// The archive [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let store = store_with(&args.images[0])?;
    match &args.output {
        Some(path) => to_file(&store, args, path)?,
        None if stdout().is_terminal() => {
            return Err(Error::Command(
                "stdout is a terminal, which an archive would confuse: give a file by -o FILE, or a pipe"
                    .into(),
            ));
        }
        None => {
            // The standard library's own says nothing of a stdout that is closed.
            let stdout = stdout().as_fd().try_clone_to_owned().map(File::from);
            let stdout = stdout.map_err(system("write to stdout"))?;
            write(&store, args, stdout, "to stdout")?;
        }
    }
    Ok(0)
}

/// The file has its name when it is whole. What had the name stays until then.
fn to_file(store: &Store, args: &Args, path: &Path) -> Result<(), Error> {
    let shown = shell_word(path);
    // A device or a pipe is written to.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let file = OpenOptions::new().write(true).open(path);
        return write(
            store,
            args,
            file.map_err(|error| unwritable(&shown, &error))?,
            &shown,
        );
    }
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let file = File::create_new(&part).map_err(|error| unwritable(&shown, &error))?;
    let written = write(store, args, file, &shown)
        .and_then(|()| fs::rename(&part, path).map_err(|error| unwritable(&shown, &error)));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

fn write(store: &Store, args: &Args, file: File, shown: &str) -> Result<(), Error> {
    let mut output = Output { file, failure: None };
    let mut buffered = BufWriter::with_capacity(BUFFER, &mut output);
    let saved = save(store, &args.images, &mut buffered);
    let flushed = buffered.flush();
    drop(buffered);
    match (output.failure, saved) {
        (Some(error), _) if error.kind() == ErrorKind::BrokenPipe => Err(Error::StdoutClosed),
        (Some(error), _) => Err(unwritable(shown, &error)),
        (None, saved) => {
            saved?;
            flushed.map_err(|error| unwritable(shown, &error))
        }
    }
}

/// Keeps why something could not be written.
struct Output {
    file: File,
    failure: Option<io::Error>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| {
            let same = io::Error::new(error.kind(), error.to_string());
            // What is interrupted is tried again.
            if error.kind() != ErrorKind::Interrupted {
                self.failure.get_or_insert(error);
            }
            same
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unwritable(shown: &str, error: &io::Error) -> Error {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space, or write it elsewhere",
        _ => "",
    };
    Error::Command(format!("cannot write the archive {shown}: {error}{advice}"))
}
