//! A home with images in it.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Coracle, Ended};

/// A home with images in it.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("coracle/images")
    }

    pub fn coracle(&self, arguments: &[&str]) -> Coracle {
        self.at_home(Coracle::new(arguments))
    }

    pub fn at_home(&self, coracle: Coracle) -> Coracle {
        let home = self.0.path().to_str().unwrap();
        ["HOME", "XDG_DATA_HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"]
            .iter()
            .fold(coracle, |coracle, name| coracle.variable(name, home))
            .variable("REGISTRY_AUTH_FILE", "")
    }

    pub fn end(&self, arguments: &[&str]) -> Ended {
        self.coracle(arguments).end()
    }

    /// What a command prints that works.
    #[track_caller]
    pub fn say(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.end(arguments).with_code(0).stdout).unwrap()
    }

    /// An image of one small file, with this name.
    pub fn import(&self, name: &str, text: &str) -> String {
        let root = self.path("root");
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("file"), text).unwrap();
        let id = self.say(&[
            "import",
            "-c",
            "CMD [\"/bin/true\"]",
            root.to_str().unwrap(),
            name,
        ]);
        id.trim_end().to_owned()
    }

    pub fn names(&self) -> Vec<String> {
        self.say(&["images", "--names"])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    pub fn verify(&self) {
        assert_eq!(self.say(&["images", "--verify"]), "");
    }
}
