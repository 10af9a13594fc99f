//! Where a copy goes. The rules are Docker's (`docker cp`).

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::{Top, aside, failed, shown};

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Something that is no directory, with its name.
    File(OsString),
    /// A directory, with its name, or what is in it alone.
    Directory { name: OsString, contents: bool },
    /// An archive with anything in it.
    Archive,
}

/// An open directory, and what the first name in the archive becomes there.
#[derive(Debug)]
pub struct Destination {
    pub directory: OwnedFd,
    pub top: Top,
}

/// Finds where a copy goes to which somebody gave this path. Here symbolic links are followed.
pub fn destination(path: &Path, source: &Source) -> io::Result<Destination> {
    let found = place(path, source)?;
    match &found.top {
        Top::Rename(name) if aside::is_reserved(name.as_bytes()) => {
            let why = format!(
                "the name {} is kept for files that are not whole; give the copy another name",
                shown(name.as_bytes())
            );
            let why = io::Error::new(ErrorKind::InvalidInput, why);
            Err(failed("copy to", path.as_os_str().as_bytes(), why))
        }
        _ => Ok(found),
    }
}

/// The directory, and what the first name becomes there, whatever it is.
fn place(path: &Path, source: &Source) -> io::Result<Destination> {
    let bytes = path.as_os_str().as_bytes();
    let refused = |why: &str| failed("copy to", bytes, io::Error::new(ErrorKind::InvalidInput, why));
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match source {
                Source::Archive => Err(failed("unpack into", bytes, error)),
                Source::File(_) if bytes.ends_with(b"/") => {
                    Err(failed("copy into the directory", bytes, error))
                }
                _ => new_name(path),
            };
        }
        Err(error) => return Err(failed("copy to", bytes, error)),
    };
    if found.is_dir() {
        let top = match source {
            Source::Archive => Top::Keep,
            Source::Directory { contents: true, .. } => Top::LeaveOut,
            Source::File(name) | Source::Directory { name, .. } => Top::Rename(name.clone()),
        };
        return Ok(Destination {
            directory: directory(path)?,
            top,
        });
    }
    match source {
        Source::Archive => Err(refused(
            "it is no directory, into which an archive could be unpacked",
        )),
        Source::Directory { .. } => Err(refused("it is a file, and what is copied is a directory")),
        Source::File(_) if !found.is_file() => Err(refused(
            "it is a device, a pipe or a socket, which a copy would replace",
        )),
        // A link to the file stays, and leads to the copy.
        Source::File(_) => {
            let path = fs::canonicalize(path).map_err(|error| failed("copy to", bytes, error))?;
            new_name(&path)
        }
    }
}

/// The last name of a path in the directory that the rest of it is.
fn new_name(path: &Path) -> io::Result<Destination> {
    let bytes = path.as_os_str().as_bytes();
    let Some(name) = path.file_name() else {
        return Err(failed("copy to", bytes, io::Error::from(ErrorKind::NotFound)));
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(Destination {
        directory: directory(parent)?,
        top: Top::Rename(name.to_owned()),
    })
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
        .map_err(|why| failed("copy into the directory", path.as_os_str().as_bytes(), why))
}
