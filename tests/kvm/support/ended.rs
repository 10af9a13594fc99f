//! A run of the program under test that is over, and what a test claims of its end.

use std::time::Duration;

/// A run that is over.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; none when a signal killed the process.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

impl Ended {
    /// Asserts the exit code.
    #[track_caller]
    pub fn with_code(self, code: u8) -> Self {
        assert_eq!(self.code, Some(code.into()), "{}", self.describe());
        self
    }

    /// Asserts that stderr says each of these.
    #[track_caller]
    pub fn saying(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?}: {}", self.describe());
        }
        self
    }

    /// Asserts that stderr is empty.
    #[track_caller]
    pub fn in_silence(self) -> Self {
        assert_eq!(self.stderr, "", "{}", self.describe());
        self
    }

    pub fn describe(&self) -> String {
        let Self {
            code,
            signal,
            stdout,
            stderr,
            took,
        } = self;
        let stdout = String::from_utf8_lossy(&stdout[..stdout.len().min(2000)]);
        format!("code {code:?}, signal {signal:?} after {took:?}\nstdout: {stdout:?}\nstderr: {stderr}")
    }
}
