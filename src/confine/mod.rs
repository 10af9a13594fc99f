//! Takes from the process what it no longer needs once everything that a machine needs is open: a guest that breaks out of its
//! machine, and so becomes this process, gains as little as possible.
//!
//! Each layer restricts the calling thread and the threads that it starts later, so [`enter`] comes before any other thread.
//! docs/confinement.md describes the layers to users.

/// Which system calls each thread may make.
pub mod filter;
/// Access to files, TCP, and other processes.
mod landlock;
/// A file system and a set of users of its own.
mod namespaces;
/// What the process may do beyond other programs of its user, and who may look into it.
mod privileges;

use std::fmt;
use std::path::Path;
use std::thread::{self, JoinHandle};

pub use privileges::become_user;

/// A kind of thing that the process can no longer do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub name: &'static str,
    pub state: State,
}

/// Whether a layer is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is. The text says what it prevents.
    Enforced(&'static str),
    /// It is not. The text says why.
    Missing(String),
}

impl Layer {
    /// Why the layer is not in force, if it is not.
    pub fn missing(&self) -> Option<&str> {
        match &self.state {
            State::Enforced(_) => None,
            State::Missing(why) => Some(why),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.state {
            State::Enforced(what) => write!(f, "{:<12}{what}", self.name),
            State::Missing(why) => write!(f, "{:<12}NOT ENFORCED: {why}", self.name),
        }
    }
}

/// Confines the process, which has no thread but the calling one, as far as this host can. Returns all layers. `is_plain` says
/// that the machine will have neither disks nor a socket device nor a name. `end` ends the process, with these words, when a thread
/// makes a system call that it may not make; it is called in a signal's handler.
pub fn enter(is_plain: bool, end: filter::End) -> Vec<Layer> {
    // A new user namespace makes the process dumpable as any other, and gives capabilities, so it comes first.
    let mut layers = vec![namespaces::enter(), privileges::forbid_dumps()];
    layers.extend(restrict_thread());
    // The last one, because it refuses what the others need.
    with_calls(layers, filter::restrict_process(is_plain, end))
}

/// Confines a process that keeps the terminal for this child, and has no thread but the calling one. It has opened no file, and
/// its filter lets it open none, so that is all. `needs_privileges` says that the child will belong to another user.
pub fn enter_keeper(child: u32, needs_privileges: bool) {
    // A lack of this is told by the child, which tries the same.
    privileges::forbid_dumps();
    if !needs_privileges {
        privileges::drop_all();
    }
    if let Err(error) = filter::restrict_keeper(child) {
        log::debug!("the parent that keeps the terminal has no filter: {error}");
    }
}

/// Confines the calling process, which only connects to programs of the host on behalf of a guest, as far as this host can. It
/// needs the host's file names, and nothing else. Returns the layers.
pub fn restrict_connector() -> [Layer; 3] {
    [
        privileges::forbid_dumps(),
        privileges::drop_all(),
        filter::restrict_connector(),
    ]
}

/// Confines the calling thread, which unpacks what somebody else has packed, to the files that it has open, as far as this host can.
/// Returns the layers.
pub fn restrict_unpacker() -> Vec<Layer> {
    with_calls(restrict_thread(), filter::restrict_unpacker())
}

/// Confines the calling thread and those that it starts, which read an archive that somebody else has made, to a directory to which they
/// write what is in it, and to `source` to read it; without network and other programs. Returns the layers.
pub fn restrict_reader(directory: &Path, source: Option<&Path>) -> Vec<Layer> {
    let layers = landlock::restrict_to(directory, source).collect();
    with_calls(layers, filter::restrict_reader())
}

/// Returns the layers that [`enter`] would return on this host. Confines a child process and a thread, which end at once, and
/// nothing else.
pub fn outlook() -> Vec<Layer> {
    // The second layer is of the whole process and cannot be taken back, so it is not tried. Linux refuses it to nobody.
    let mut layers = vec![namespaces::outlook(), privileges::no_dumps()];
    // A limit, or a container's filter, may permit no thread.
    let tried = thread::Builder::new().spawn(|| with_calls(restrict_thread(), filter::restrict(false)));
    let untried = |why: String| {
        vec![Layer {
            name: "calls",
            state: State::Missing(why),
        }]
    };
    layers.extend(match tried.map(JoinHandle::join) {
        Ok(Ok(tried)) => tried,
        Ok(Err(_)) => untried("the thread that tried it and the other layers panicked".into()),
        Err(error) => untried(format!(
            "no thread can be started to try it and the other layers: {error}"
        )),
    });
    layers
}

/// Applies the layers that are of a thread and of those that it starts.
fn restrict_thread() -> Vec<Layer> {
    let mut layers = vec![privileges::drop_all()];
    layers.extend(landlock::restrict());
    layers
}

/// Adds the layer of the filters, which holds some others by itself where this host's Landlock does not know them.
fn with_calls(mut layers: Vec<Layer>, calls: Layer) -> Vec<Layer> {
    const HELD: [&str; 3] = ["truncation", "TCP", "processes"];
    if calls.missing().is_none() {
        let held = layers
            .iter_mut()
            .filter(|layer| HELD.contains(&layer.name) && layer.missing().is_some());
        held.for_each(|layer| {
            layer.state =
                State::Enforced("by the filters of system calls: this host's Landlock does not know it");
        });
    }
    layers.push(calls);
    layers
}

#[cfg(test)]
#[path = "confine_test.rs"]
mod tests;
