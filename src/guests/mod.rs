//! Guests that have a name, and the directory of each, in which other commands find it.
//!
//! A guest's process makes the directory ([`Own`]) and holds a lock on a file in it for as long as it lives. Whoever looks
//! ([`Place`], [`Guest`]) asks the kernel for that lock, and believes nothing else about whether the guest runs. There is no list
//! of guests, and nobody who keeps one:
//!
//! - A directory is made under a name that starts with `.new-`, filled, and then renamed to the guest's name.
//! - It is renamed to a name that starts with `.gone-` before it is removed.
//!
//! So a process that is killed in between leaves a directory that no command takes for a guest, and the next one that looks
//! removes it.

/// The guest's console in a file of bounded size.
mod console_log;
/// When that file was written.
mod console_times;
/// The socket at which other commands ask a guest's process for something.
pub mod control;
/// What other processes see of a guest.
mod guest;
/// Notices in a guest's output that its init runs.
mod handover;
/// Which processes hold a guest's lock.
mod lock;
/// Names of guests.
mod name;
/// What the process of a guest has of its directory.
mod own;
/// The directory of all guests.
mod place;
/// The process of a guest, as other processes reach it.
mod process;
/// What is written down of a guest.
mod record;

use std::io;
use std::path::PathBuf;

pub use console_log::{KEPT as LOG_KEPT, LogReader};
pub use console_times::TimesReader;
pub use guest::Guest;
use handover::Handover;
pub use name::Name;
pub use own::Own;
pub use place::Place;
pub use process::Process;
pub use record::{Ended, Made, now};

/// Why something could not be done with a guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no guest '{0}' (coracle ps -a lists all)")]
    Unknown(String),
    #[error("the name '{0}' is taken by a guest that runs (coracle ps lists them)")]
    NameRuns(Name),
    #[error("the name '{0}' is taken by a guest that has ended (coracle rm {0} removes what is left of it)")]
    NameEnded(Name),
    #[error("guest '{0}' runs (coracle rm -f {0} ends it first, without asking it)")]
    Runs(Name),
    #[error("guest '{0}' does not run (coracle ps -a says how it ended)")]
    HasEnded(Name),
    #[error(
        "{path} is not safe as the directory of guests: {why} (XDG_RUNTIME_DIR=DIRECTORY names another place)"
    )]
    Unsafe { path: PathBuf, why: &'static str },
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot {what} guest '{name}': {source}")]
    Guest {
        what: &'static str,
        name: Name,
        source: io::Error,
    },
}

impl Error {
    /// Why a guest cannot have this name.
    fn taken(name: &Name, is_running: bool) -> Self {
        match is_running {
            true => Self::NameRuns(name.clone()),
            false => Self::NameEnded(name.clone()),
        }
    }
}
