use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::place::Folder;
use super::process::Process;
use super::record::{self, Ended, Made};
use super::{Error, LogReader, Name, Place, control, lock};

/// A guest, as other processes see it. Its directory is open, so it stays the same guest when another one gets its name.
pub struct Guest {
    name: Name,
    folder: Folder,
    lock: File,
}

impl Guest {
    pub(super) fn open(place: &Place, name: &Name) -> io::Result<Self> {
        let folder = Folder::open(&place.inner(name.as_str()))?;
        let lock = match folder.read("lock") {
            // Somebody removed it by hand. Without it the guest does not run, and the directory can be removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => folder.make("lock")?,
            lock => lock?,
        };
        Ok(Self {
            name: name.clone(),
            folder,
            lock,
        })
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Whether the guest's process lives.
    pub fn is_running(&self) -> bool {
        lock::is_held(&self.lock)
    }

    pub fn is_paused(&self) -> bool {
        self.is_running() && lock::is_paused(&self.lock)
    }

    /// Asks the guest's process for something (`control/mod.rs`).
    pub fn ask(&self, method: &str, path: &str) -> Result<Value, Error> {
        if !self.is_running() {
            return Err(Error::HasEnded(self.name.clone()));
        }
        match control::ask(&self.folder.inner("control.sock"), method, path) {
            // It has ended meanwhile.
            Err(_) if !self.is_running() => Err(Error::HasEnded(self.name.clone())),
            answer => answer.map_err(self.error("ask the process of")),
        }
    }

    /// What the guest was made of, if that can be read.
    pub fn made(&self) -> Option<Made> {
        record::read(self.folder.read("guest.json").ok()?)
    }

    /// How the guest ended. None if it runs, or if its process was killed before it could write that.
    pub fn ended(&self) -> Option<Ended> {
        record::read(self.folder.read("exit.json").ok()?)
    }

    /// What the guest has printed, as far as it is kept.
    pub fn log(&self) -> Result<LogReader, Error> {
        let file = self.folder.read("console.log");
        file.and_then(LogReader::new)
            .map_err(self.error("read the console's log of"))
    }

    /// The guest's process; none if the guest does not run.
    pub fn process(&self) -> Result<Option<Process>, Error> {
        if !self.is_running() {
            return Ok(None);
        }
        match Process::reach(&self.folder.inner("control.sock")) {
            Ok(process) => Ok(Some(process)),
            // It has ended meanwhile.
            Err(_) if !self.is_running() => Ok(None),
            Err(error) => Err(self.error("reach the process of")(error)),
        }
    }

    /// Sends the guest's process a signal. False if the guest does not run.
    pub fn kill(&self, signal: i32) -> Result<bool, Error> {
        let Some(process) = self.process()? else {
            return Ok(false);
        };
        match process.signal(signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            sent => sent
                .map(|()| true)
                .map_err(self.error("send a signal to the process of")),
        }
    }

    /// Waits until its process has ended, for `patience` at most. Returns whether it has.
    pub fn wait_for(&self, process: &Process, patience: Duration) -> Result<bool, Error> {
        process
            .wait(Some(patience))
            .map_err(self.error("wait for the end of"))
    }

    /// Waits until the guest's process has ended.
    pub fn wait(&self) -> Result<(), Error> {
        match self.process() {
            Ok(None) => Ok(()),
            Ok(Some(process)) => process
                .wait(None)
                .map(drop)
                .map_err(self.error("wait for the end of")),
            // Somebody keeps others from its socket. The lock tells as well.
            Err(_) => lock::wait(&self.lock).map_err(self.error("wait for the end of")),
        }
    }

    /// Whether the guest has ended and nothing of it is to be left.
    pub(super) fn is_to_be_removed(&self) -> bool {
        let is_asked = || self.made().is_some_and(|made| made.remove);
        let never_ran = || self.ended().is_some_and(|ended| !ended.ran);
        !self.is_running() && (is_asked() || never_ran())
    }

    pub(super) fn take_lock(&self) -> io::Result<bool> {
        lock::take(&self.lock)
    }

    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.folder.is_at(path)
    }

    pub(super) fn error(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error {
        let name = self.name.clone();
        move |source| Error::Guest { what, name, source }
    }
}
