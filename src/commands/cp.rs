//! `coracle cp`: copies files between a guest that runs and this host.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufReader, BufWriter, ErrorKind, IsTerminal, Write, stderr, stdout};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coracle_agent_protocol::{CopyIn, CopyOut, CopySource, DATA_MAX, ToAgent, copy_status};
use coracle_archive::{Kind, Policy, Reader, Source, Unpacker, destination, pack};

use super::decimal::decimal;
use super::{Error, named, system, tell};
use crate::console::Signals;
use crate::diagnosis::exit_code;
use crate::guests::control;
use crate::plain_text;
use crate::program::{Copy, CopyEnded};

/// How long the agent may take to answer: a guest that has just been started has to boot.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a terminal is told how far a copy has come.
const PROGRESS: Duration = Duration::from_millis(100);
/// Files that are left out of which a person is told one by one.
const TOLD_MAX: usize = 20;

/// Copy files or directories between a guest that runs and this host
///
/// NAME:PATH is in a guest that has a name, and begins at its root; anything else is a path of this host. Modes, times, symbolic links, hard
/// links and holes are copied, too. Each file gets its name when it is whole.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle cp web.conf web:/root/
      a file, into a directory of the guest web
  coracle cp web:/tmp/log logs
      a directory: as logs, or into it if there is such a directory
  coracle cp web:/root/site/. site
      what is in a directory, and not the directory itself
  tar c . | coracle cp - web:/root
      an archive, unpacked into a directory that exists
  coracle cp web:/root - >root.tar
      a directory, as an archive
  coracle cp db:/dump - | coracle cp - web:/root
      from one guest into another

A copy belongs to root in the guest, and here to who makes it; with -a to the owner that the file had, by number. From a guest come \
no devices and pipes, and no file gets to be set-user-ID. A name that begins with a dot or a slash is no guest's.

Exit codes: 127 what is to be copied is missing; 137 the guest ended first; 125 any other failure; 128+N ended by signal N.")]
pub struct Args {
    /// Keep the owner and the group of each file, by number
    #[arg(short, long)]
    archive: bool,

    /// If SRC is a symbolic link, copy what it leads to
    #[arg(short = 'L', long)]
    follow_link: bool,

    /// Say nothing about a copy that succeeds
    #[arg(short, long)]
    quiet: bool,

    /// What is copied: a path, NAME:PATH, or - for an archive (tar) on stdin
    #[arg(value_name = "SRC")]
    source: OsString,

    /// Where it goes: NAME:PATH, a path, or - for an archive (tar) on stdout
    #[arg(value_name = "DST")]
    destination: OsString,
}

/// What an argument names.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// stdin or stdout.
    Stream,
    Here(PathBuf),
    Guest {
        name: String,
        path: PathBuf,
    },
}

impl Place {
    fn of(argument: &OsStr) -> Self {
        let bytes = argument.as_bytes();
        let here = || Self::Here(argument.into());
        if bytes == b"-" {
            return Self::Stream;
        }
        let Some(colon) = bytes.iter().position(|byte| *byte == b':') else {
            return here();
        };
        match str::from_utf8(&bytes[..colon]) {
            Ok(name) if !name.starts_with(['.', '/']) => Self::Guest {
                name: name.into(),
                path: OsStr::from_bytes(&bytes[colon + 1..]).into(),
            },
            _ => here(),
        }
    }
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let refused = |why: &str| Err(Error::Command(why.into()));
    match (Place::of(&args.source), Place::of(&args.destination)) {
        (Place::Guest { .. }, Place::Guest { .. }) => refused(
            "a copy goes to this host or comes from it; between guests: coracle cp A:PATH - | coracle cp - B:PATH",
        ),
        (Place::Guest { path, .. }, _) | (_, Place::Guest { path, .. }) if path.as_os_str().is_empty() => {
            refused("there is no path behind the guest's name: NAME:PATH")
        }
        (from, Place::Guest { name, path }) => into_guest(args, from, &name, path),
        (Place::Guest { name, path }, to) => out_of_guest(args, &name, path, to),
        _ => refused("one of the two has to be in a guest: NAME:PATH (coracle ps lists names)"),
    }
}

fn into_guest(args: &Args, from: Place, name: &str, path: PathBuf) -> Result<u8, Error> {
    let (source, file) = match from {
        Place::Here(file) => match source(&file, args.follow_link) {
            Ok(source) => (source, Some(file)),
            Err(error) => {
                return Ok(failed(
                    &format!("cannot read {}: {error}", file.display()),
                    &error,
                ));
            }
        },
        _ => (CopySource::Archive, None),
    };
    let what = ToAgent::CopyIn(CopyIn {
        path: path.as_os_str().as_bytes().to_vec(),
        source,
        owners: args.archive,
    });
    let mut left_out = LeftOut::default();
    carry(
        args,
        name,
        &what,
        &format!("{name}:{}", path.display()),
        |copy| match &file {
            None => copy.send_stdin(),
            Some(file) => {
                let name = file.file_name().map_or(&b"root"[..], OsStr::as_bytes);
                let sink = BufWriter::with_capacity(DATA_MAX, copy);
                let packed = pack(file, name, args.follow_link, sink, &mut |text| {
                    left_out.tell(text)
                });
                packed.map(drop)
            }
        },
    )
}

/// What a path of this host is to the agent.
fn source(file: &Path, follows: bool) -> io::Result<CopySource> {
    let found = match follows {
        true => fs::metadata(file)?,
        false => fs::symlink_metadata(file)?,
    };
    let name = match file.file_name() {
        Some(name) => Some(name.to_owned()),
        None => fs::canonicalize(file)?.file_name().map(OsStr::to_owned),
    };
    let is_contents = has_only_contents(file) || name.is_none();
    // Of the root directory what is in it can be copied only.
    let name = name.unwrap_or_else(|| "root".into()).into_vec();
    Ok(match found.is_dir() {
        true => CopySource::Directory {
            name,
            contents: is_contents,
        },
        false => CopySource::File(name),
    })
}

/// Whether what is in the directory is meant, as Docker has it.
fn has_only_contents(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes == b"." || bytes.ends_with(b"/.")
}

fn out_of_guest(args: &Args, name: &str, path: PathBuf, to: Place) -> Result<u8, Error> {
    let to = match to {
        Place::Here(to) => Some(to),
        _ if stdout().is_terminal() => {
            return Err(Error::Command(
                "an archive is nothing for a terminal: send stdout to a file or a pipe".into(),
            ));
        }
        _ => None,
    };
    let what = ToAgent::CopyOut(CopyOut {
        path: path.as_os_str().as_bytes().to_vec(),
        follows: args.follow_link,
    });
    let shown = to
        .as_ref()
        .map_or_else(|| "-".into(), |to| to.display().to_string());
    carry(args, name, &what, &shown, |copy| match &to {
        None => copy.receive_to_stdout(),
        Some(to) => unpack(copy, &path, to, args.archive),
    })
}

/// Puts what the guest sends where the person wants it. No name of the guest's is used but below what the person named.
fn unpack(copy: &mut Copy, path: &Path, to: &Path, owners: bool) -> io::Result<()> {
    let mut reader = Reader::new(BufReader::with_capacity(DATA_MAX, copy));
    let Some(first) = reader.next_entry()? else {
        return Err(io::Error::new(ErrorKind::InvalidData, "the guest sent nothing"));
    };
    let refused = |what: &str| {
        let hint = match what {
            "a symbolic link" => ": -L copies what it leads to",
            _ => "",
        };
        let why = format!(
            "{} is {what} in the guest, which is not copied{hint}",
            path.display()
        );
        Err(io::Error::new(ErrorKind::InvalidInput, why))
    };
    let is_directory = first.kind == Kind::Directory;
    match first.kind {
        // The next copy to the same place would follow it.
        Kind::Symlink(_) => {
            return refused("a symbolic link");
        }
        Kind::Device { .. } | Kind::Fifo | Kind::Other(_) => {
            return refused("a device or a pipe");
        }
        Kind::HardLink(_) => return refused("another file's further name"),
        Kind::Directory | Kind::File { .. } => {}
    }
    let source = match (&first.kind, path.file_name()) {
        (Kind::Directory, name) => Source::Directory {
            name: name.unwrap_or_default().into(),
            contents: has_only_contents(path) || name.is_none(),
        },
        (_, Some(name)) => Source::File(name.into()),
        (_, None) => {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "the guest sent no directory",
            ));
        }
    };
    let place = destination(to, &source)?;
    let mut left_out = LeftOut::default();
    let mut warn = |text: &str| left_out.tell(text);
    let policy = Policy {
        owners,
        is_trusted: false,
    };
    let mut unpacker = Unpacker::new(place.directory, place.top, policy, &mut warn);
    unpacker.put(first, &mut reader)?;
    while let Some(entry) = reader.next_entry()? {
        if !is_directory {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "the guest sent more than the file that was asked for",
            ));
        }
        unpacker.put(entry, &mut reader)?;
    }
    unpacker.finish()
}

/// Asks the agent for its part of a copy, does ours, and says what came of it.
fn carry(
    args: &Args,
    name: &str,
    what: &ToAgent,
    to: &str,
    ours: impl FnOnce(&mut Copy) -> io::Result<()>,
) -> Result<u8, Error> {
    let (_, guest) = named::find(name)?;
    let (connection, process) = guest.call_agent(control::PATIENCE)?;
    let mut signals = Signals::catch().map_err(system("catch signals"))?;
    let is_shown = !args.quiet && stderr().is_terminal();
    let mut progress = Progress::new(is_shown.then(|| match what {
        ToAgent::CopyIn(_) => format!("Copying to {name}"),
        _ => format!("Copying from {name}"),
    }));
    let machine = process.as_fd();
    let copy = Copy::new(connection, what, PATIENCE, machine, &mut signals, |count| {
        progress.show(count)
    });
    let mut copy = copy.map_err(system("reach the guest's agent"))?;
    let done = ours(&mut copy);
    let (ended, said, count) = copy.finish(done.is_ok());
    progress.clear();
    signals.release();
    let mut left_out = LeftOut::default();
    let mut lines: Vec<_> = said.lines().map(plain_text::clean).collect();
    let why = match &ended {
        Some(CopyEnded::Exited(status)) if *status != 0 => lines.pop(),
        _ => None,
    };
    for line in lines {
        left_out.tell(&format!("in guest '{name}': {line}"));
    }
    match (ended, done) {
        (Some(CopyEnded::Exited(0)), Ok(())) => {
            if is_shown {
                let to = plain_text::clean(to);
                tell(format_args!("Successfully copied {} to {to}", decimal(count)));
            }
            Ok(0)
        }
        (Some(CopyEnded::Signal(number)), _) => Ok(exit_code::from_signal(number)),
        (Some(CopyEnded::Machine), _) => {
            tell(format_args!(
                "coracle: guest '{name}' has ended, and the copy is not whole"
            ));
            Ok(exit_code::from_signal(libc::SIGKILL))
        }
        (Some(CopyEnded::Exited(status)), _) if status != 0 => {
            let why = why.unwrap_or_else(|| "the agent does not say why".into());
            tell(format_args!("coracle: in guest '{name}': {why}"));
            Ok(match status {
                copy_status::NOT_FOUND => exit_code::FILE_MISSING,
                _ => exit_code::FAILED,
            })
        }
        (Some(CopyEnded::NotStarted(failure)), _) => {
            tell(format_args!(
                "coracle: in guest '{name}': {}",
                plain_text::clean(&failure.text)
            ));
            Ok(exit_code::FAILED)
        }
        (Some(CopyEnded::Killed(signal)), _) => {
            tell(format_args!(
                "coracle: in guest '{name}' signal {signal} ended the copy"
            ));
            Ok(exit_code::FAILED)
        }
        (Some(CopyEnded::Agent(error)), _) => {
            let why = match error.kind() {
                ErrorKind::InvalidData => format!("is not understood: {error}"),
                ErrorKind::TimedOut => "does not answer: the guest hangs, or has not come so far (coracle logs prints what it says)".into(),
                _ => "is gone, and the copy is not whole".into(),
            };
            tell(format_args!("coracle: the agent in guest '{name}' {why}"));
            Ok(exit_code::FAILED)
        }
        (Some(CopyEnded::Exited(_)), Err(error)) if is_over(&error) => {
            tell(format_args!(
                "coracle: the agent in guest '{name}' has ended a copy that is not whole"
            ));
            Ok(exit_code::FAILED)
        }
        (_, Err(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(exit_code::STDOUT_CLOSED),
        (_, Err(error)) => {
            let mut text = plain_text::clean(&error.to_string());
            if args.archive && error.kind() == ErrorKind::PermissionDenied {
                text.push_str(" (only root can give files to other users: leave -a out)");
            }
            Ok(failed(&text, &error))
        }
        (None | Some(CopyEnded::Exited(_)), Ok(())) => {
            tell("coracle: the copy is not whole");
            Ok(exit_code::FAILED)
        }
    }
}

/// Whether the error is the copy's own, that there is nobody who would take or give more. Nobody's at stdout is the system's.
fn is_over(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe && error.raw_os_error().is_none()
}

/// Says why a copy failed on this side. Gives the exit code.
fn failed(text: &str, error: &io::Error) -> u8 {
    tell(format_args!("coracle: {}", plain_text::clean(text)));
    match error.kind() {
        ErrorKind::NotFound => exit_code::FILE_MISSING,
        _ => exit_code::FAILED,
    }
}

/// Tells the person of files that are left out, up to a number.
#[derive(Default)]
struct LeftOut(usize);

impl LeftOut {
    fn tell(&mut self, text: &str) {
        self.0 += 1;
        match self.0 {
            ..=TOLD_MAX => tell(format_args!("coracle: {}", plain_text::clean(text))),
            count if count == TOLD_MAX + 1 => tell("coracle: more is left out than is told here"),
            _ => {}
        }
    }
}

/// A line on the terminal that says how far a copy has come.
struct Progress {
    /// What the line begins with, if there is one.
    title: Option<String>,
    shown: Option<Instant>,
    began: Instant,
}

impl Progress {
    fn new(title: Option<String>) -> Self {
        Self {
            title,
            shown: None,
            began: Instant::now(),
        }
    }

    fn show(&mut self, count: u64) {
        let Some(title) = &self.title else { return };
        // A short copy shows nothing on its way.
        if self.shown.unwrap_or(self.began).elapsed() < PROGRESS {
            return;
        }
        self.shown = Some(Instant::now());
        // Nothing depends on it.
        let _ = write!(stderr(), "\r\x1b[K{title} - {}", decimal(count));
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_a_guests_if_it_has_a_name_and_a_colon() {
        let of = |text: &str| Place::of(OsStr::new(text));
        let guest = |name: &str, path: &str| Place::Guest {
            name: name.into(),
            path: path.into(),
        };
        assert_eq!(of("web:/etc"), guest("web", "/etc"));
        assert_eq!(of("web:a:b"), guest("web", "a:b"));
        assert_eq!(of("web:"), guest("web", ""));
        assert_eq!(of("-"), Place::Stream);
        for here in ["file", "./a:b", "/a:b", ".:x", "../x:y"] {
            assert_eq!(of(here), Place::Here(here.into()), "{here}");
        }
    }
}
