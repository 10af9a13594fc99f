//! Guests that have a name, and images, apart from those of anybody else.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::images::scratch;
use crate::place;
use crate::run::Coracle;

/// A runtime directory with no guests at first, all of which end with it, and a place for images.
pub struct Harbour(TempDir);

impl Harbour {
    pub fn new() -> Self {
        Self(scratch())
    }

    /// With a guest that is named `web`, whose init is at work.
    pub fn with_web(options: &[&str]) -> Self {
        let harbour = Self::new();
        let words = [&["run", "-d", "--name", "web"], options].concat();
        assert_eq!(harbour.say(&words), "web\n");
        harbour
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn coracle(&self, arguments: &[&str]) -> Coracle {
        Coracle::program(place::coracle())
            .args(arguments)
            .variable("XDG_RUNTIME_DIR", self.0.path())
            .variable("XDG_DATA_HOME", self.0.path().join("data"))
    }

    /// Runs a command that is to succeed without a message, and gives what it prints.
    #[track_caller]
    pub fn say(&self, arguments: &[&str]) -> String {
        let finished = self.coracle(arguments).end();
        finished.assert_powered_off();
        finished.console()
    }

    /// The number of the guest's process.
    pub fn process_of_web(&self) -> u64 {
        let inspected: serde_json::Value = serde_json::from_str(&self.say(&["inspect", "web"])).unwrap();
        inspected[0]["process"].as_u64().unwrap()
    }

    /// How many descriptors the guest's process has.
    pub fn descriptors_of_web(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.process_of_web());
        fs::read_dir(directory).unwrap().count()
    }
}

impl Drop for Harbour {
    fn drop(&mut self) {
        for name in self.coracle(&["ps", "-q"]).end().console().lines() {
            self.coracle(&["kill", name]).end();
        }
    }
}
