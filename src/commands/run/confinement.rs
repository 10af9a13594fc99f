//! Confines the process of a run, and says how far.

use vmm_sys_util::eventfd::EventFd;

use super::super::Error;
use crate::commands::system;
use crate::config::{Config, Confine};
use crate::confine::{self, Layer};
use crate::console::{end_at_once, write_stderr_by_thread};
use crate::diagnosis::exit_code;

/// Layers whose lack is told at every run. What later versions of Linux add to them is told by `-v` and `doctor`.
const BASIC: [&str; 4] = ["dumps", "privileges", "files", "calls"];

/// Confines this process as far as `config` asks. `has_name` says whether the guest has a name, and so a control socket. No
/// thread may have been started before. The threads that are started later are confined, too; the first of them writes
/// Coracle's own lines on stderr.
pub fn confine(config: &Config, has_name: bool) -> Result<(), Error> {
    if let Some(user) = config.host_user {
        confine::become_user(user.user, user.group).map_err(|source| Error::User { user, source })?;
        log::debug!("confinement: the process is one of user and group {user}");
    }
    let how = config.confine;
    match how {
        Confine::Auto | Confine::Require => {
            let is_plain = config.disks.is_empty() && config.vsock.is_none() && !has_name;
            let layers = confine::enter(is_plain, |words| end_at_once(words, exit_code::REFUSED_CALL));
            for layer in &layers {
                log::debug!("confinement: {layer}");
            }
            let missing = missing(layers);
            if how == Confine::Require && !missing.is_empty() {
                // Landlock needs a descriptor for a moment. Where there is none, the host is not to blame.
                EventFd::new(0).map_err(system("confine this process"))?;
                return Err(Error::NotConfined(missing));
            }
            if let Some(layer) = missing.iter().find(|layer| BASIC.contains(&layer.name)) {
                log::warn!(
                    "this process is less confined than it should be: {layer} (coracle doctor says more)"
                );
            }
        }
        Confine::Off => log::warn!(
            "this process is not confined, as --confine off says: a guest that breaks out of its machine can do \
             everything that its user can"
        ),
    }
    write_stderr_by_thread();
    Ok(())
}

/// How far a run on this host is confined, for `--dry-run`.
pub fn outlook(config: &Config) -> Result<String, Error> {
    let how = config.confine;
    let mut text = match config.host_user {
        Some(user) => format!("user          {user}, if root starts it\n"),
        None => String::new(),
    };
    if how == Confine::Off {
        return Ok(text + "confinement   off\n");
    }
    let layers = confine::outlook();
    text += "confinement\n";
    for layer in &layers {
        text += &format!("  {layer}\n");
    }
    let missing = missing(layers);
    match how == Confine::Require && !missing.is_empty() {
        true => Err(Error::NotConfined(missing)),
        false => Ok(text),
    }
}

fn missing(layers: Vec<Layer>) -> Vec<Layer> {
    layers
        .into_iter()
        .filter(|layer| layer.missing().is_some())
        .collect()
}
