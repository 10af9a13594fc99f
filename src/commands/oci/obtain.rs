//! The image that a command is to run: from the store, or from a registry.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};

use coracle_images::store::{Image, Store};
use coracle_images::{Error as ImageError, Platform, Reference};

use super::existing;
use super::ready::make_ready;
use crate::commands::{Error, system};
use crate::console::{For, Request, Signals, suspend, tell, wait};
use crate::diagnosis::exit_code;

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PullPolicy {
    /// Each time; layers that are here are not got again
    Always,
    /// If it is not here
    #[default]
    Missing,
    /// Never: it is here, or the command fails
    Never,
}

/// Finds an image by its name or its ID, for the platform and ready to be run. What is not in the store, or is to be pulled
/// in any case, is pulled, with its progress on stderr unless that is to be `quiet`.
///
/// An image that is in the store costs a few files to read and a look at each layer. A pull is the work of another process, so that
/// this one has neither threads nor what is left of a connection when a guest starts in it.
pub fn obtain(
    name: &str,
    platform: &Platform,
    pull: PullPolicy,
    insecure: bool,
    quiet: bool,
) -> Result<(Store, Image), Error> {
    let there = || -> Result<_, Error> {
        let Some(store) = existing()? else {
            return Ok(None);
        };
        let image = find(&store, name, platform)?;
        Ok(image.map(|image| (store, image)))
    };
    let ready = |(store, image): (Store, Image)| make_ready(&store, &image).map(|()| (store, image));
    if pull != PullPolicy::Always
        && let Some(found) = there()?
    {
        return ready(found);
    }
    let reference: Reference = name.parse()?;
    let familiar = reference.familiar();
    if pull == PullPolicy::Never {
        return Err(ImageError::Missing(format!(
            "there is no image {familiar} for {platform} in the store; coracle pull {familiar} gets it"
        ))
        .into());
    }
    if pull == PullPolicy::Missing && !quiet {
        tell(format_args!(
            "coracle: the image {familiar} is not here; pulling it"
        ));
    }
    pull_apart(&reference, platform, insecure, quiet)?;
    let found = there()?.ok_or_else(|| {
        let gone =
            format!("the image {familiar} is gone again: another command has removed it; repeat this one");
        ImageError::Missing(gone)
    })?;
    ready(found)
}

/// The image of the store, if it is there for the platform.
fn find(store: &Store, name: &str, platform: &Platform) -> Result<Option<Image>, Error> {
    let image = match store.find(name, platform) {
        Err(ImageError::Missing(_)) => return Ok(None),
        found => found?,
    };
    if !platform.takes(&image.configuration.platform()) {
        return Ok(None);
    }
    Ok(Some(image))
}

/// Has another process pull the image.
fn pull_apart(name: &Reference, platform: &Platform, insecure: bool, quiet: bool) -> Result<(), Error> {
    const WHAT: &str = "start a process that pulls the image";
    let mut signals = Signals::catch().map_err(system(WHAT))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["pull", "--platform", &platform.to_string()]);
    command.args(insecure.then_some("--insecure"));
    command.args(quiet.then_some("--quiet"));
    command.args(["--", &name.to_string()]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let pulled = child
        .and_then(|mut child| wait_for(&mut child, &mut signals))
        .map_err(system(WHAT));
    signals.release();
    match pulled? {
        0 => Ok(()),
        code => Err(Error::Told(code)),
    }
}

/// Passes signals on to the child until it ends, and gives its exit code.
fn wait_for(child: &mut Child, signals: &mut Signals) -> io::Result<u8> {
    use std::os::unix::process::ExitStatusExt;
    let mut output = child.stdout.take();
    while let Some(stdout) = &mut output {
        let [has_ended, is_signal] = wait(
            [
                Some(For::Reading(stdout.as_fd())),
                Some(For::Reading(signals.as_fd())),
            ],
            None,
        )?;
        if is_signal {
            match signals.take() {
                // The child has it as well if the terminal sent it. One more does no harm.
                Some(Request::End(number)) => send(child, number),
                Some(Request::Suspend) => suspend(),
                Some(Request::Resume | Request::Resize) | None => {}
            }
        }
        if has_ended && is_at_end(stdout) {
            output = None;
        }
    }
    let status = child.wait()?;
    let by_signal = || status.signal().map(exit_code::from_signal);
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.or_else(by_signal).unwrap_or(exit_code::FAILED))
}

/// Reads what the child prints, which is the image's name, for its end alone.
fn is_at_end(stdout: &mut ChildStdout) -> bool {
    !matches!(stdout.read(&mut [0; 4096]), Ok(1..))
}

fn send(child: &Child, signal: i32) {
    // SAFETY: no memory is touched. The child has not been waited for, so its number is its own.
    unsafe { libc::kill(child.id() as i32, signal) };
}
