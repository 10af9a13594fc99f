use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::control::Attachment;
use super::place::Folder;
use super::process::Process;
use super::record::{self, Ended, Made};
use super::{Error, LogReader, Name, Place, TimesReader, control, lock};

/// A guest, as other processes see it. Its directory is open, so it stays the same guest when another one gets its name.
pub struct Guest {
    name: Name,
    folder: Folder,
    /// None if somebody removed the file.
    lock: Option<File>,
}

impl Guest {
    pub(super) fn open(place: &Place, name: &Name) -> io::Result<Self> {
        let path = place.inner(name.as_str());
        let folder = Folder::open(&path)?;
        let lock = match folder.read("lock") {
            // Somebody removed that file alone, not all of the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder.is_at(&path) => None,
            lock => Some(lock?),
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
        match &self.lock {
            Some(lock) => lock::is_held(lock),
            // Its process may hold the lock of a file that has no name any more. The socket tells as well.
            None => control::is_served(&self.folder.inner("control.sock")),
        }
    }

    pub fn is_paused(&self) -> bool {
        self.is_running() && self.lock.as_ref().is_some_and(lock::is_paused)
    }

    /// Asks the guest's process for something (`control/mod.rs`), and waits for the answer for `patience` at most.
    pub fn ask(&self, method: &str, path: &str, patience: Duration) -> Result<Value, Error> {
        if !self.is_running() {
            return Err(Error::HasEnded(self.name.clone()));
        }
        match control::ask(&self.folder.inner("control.sock"), method, path, patience) {
            // It has ended meanwhile.
            Err(_) if !self.is_running() => Err(Error::HasEnded(self.name.clone())),
            answer => answer.map_err(self.error("ask the process of")),
        }
    }

    /// A connection to the agent in the guest, as soon as that listens (crates/agent-protocol), and the guest's process. It is
    /// waited for that process for `patience` at most.
    pub fn call_agent(&self, patience: Duration) -> Result<(UnixStream, Process), Error> {
        if !self.is_running() {
            return Err(Error::HasEnded(self.name.clone()));
        }
        let call = || {
            let stream = control::connect(&self.folder.inner("control.sock"))?;
            // Before the request: what it is answered with may be the connection's end.
            let process = Process::behind(&stream)?;
            Ok((control::call_agent(stream, patience)?, process))
        };
        match call() {
            // It has ended meanwhile.
            Err(_) if !self.is_running() => Err(Error::HasEnded(self.name.clone())),
            called => called.map_err(self.error("reach the agent in")),
        }
    }

    /// Attaches to the guest's console. Waits for what was printed before, for `patience` at most.
    pub fn attach(&self, patience: Duration) -> Result<Attachment, Error> {
        if !self.is_running() {
            return Err(Error::HasEnded(self.name.clone()));
        }
        match control::attach(&self.folder.inner("control.sock"), patience) {
            // It has ended meanwhile.
            Err(_) if !self.is_running() => Err(Error::HasEnded(self.name.clone())),
            attached => attached.map_err(self.error("attach to the console of")),
        }
    }

    /// What the guest was made of, if that can be read.
    pub fn made(&self) -> Option<Made> {
        record::read_made(self.folder.read("guest.json").ok()?)
    }

    /// How the guest ended. None if it runs, or if its process was killed before it could write that.
    pub fn ended(&self) -> Option<Ended> {
        record::read_ended(self.folder.read("exit.json").ok()?)
    }

    /// What the guest has printed, as far as it is kept.
    pub fn log(&self) -> Result<LogReader, Error> {
        let file = self.folder.read("console.log");
        file.and_then(LogReader::new)
            .map_err(self.error("read the console's log of"))
    }

    /// When it has printed that.
    pub fn log_times(&self) -> Result<TimesReader, Error> {
        let file = self.folder.read("console.times");
        file.map(TimesReader::new)
            .map_err(self.error("read the times of the log of"))
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
        match self.process()? {
            Some(process) => self.signal(&process, signal),
            None => Ok(false),
        }
    }

    /// Sends a signal to its process. False if that has ended.
    pub fn signal(&self, process: &Process, signal: i32) -> Result<bool, Error> {
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

    /// Waits until the guest's process has ended. Returns how the guest ended, as [`Guest::ended`] does.
    pub fn wait(&self) -> Result<Option<Ended>, Error> {
        // Opened before the end: after it, another command may remove the file.
        let exit = self.folder.read("exit.json");
        match (self.process(), &self.lock) {
            (Ok(None), _) => (),
            (Ok(Some(process)), _) => _ = process.wait(None).map_err(self.error("wait for the end of"))?,
            // Somebody keeps others from its socket. The lock tells as well.
            (Err(_), Some(lock)) => lock::wait(lock).map_err(self.error("wait for the end of"))?,
            (Err(error), None) => return Err(error),
        }
        Ok(exit.ok().and_then(record::read_ended))
    }

    /// Whether the guest has ended and nothing of it is to be left.
    pub(super) fn is_to_be_removed(&self) -> bool {
        let is_asked = || self.made().is_some_and(|made| made.remove);
        // If its process was killed before it ran, nothing was written.
        let is_empty = || -> io::Result<bool> { Ok(self.folder.read("exit.json")?.metadata()?.len() == 0) };
        let never_ran = || is_empty().unwrap_or(false) || self.ended().is_some_and(|ended| !ended.ran);
        !self.is_running() && (is_asked() || never_ran())
    }

    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.folder.is_at(path)
    }

    pub(super) fn error(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error {
        let name = self.name.clone();
        move |source| Error::Guest { what, name, source }
    }
}
