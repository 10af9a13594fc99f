//! A process that outlives the race, also when that is killed. It then undoes what the race did not undo itself.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::typed::as_typed;

/// Reads lines of a key and a shell command, and lines of a key alone, which strike out all commands of that key. The
/// input ends when the race does. The commands that are left are run then, and the race's directory is removed.
const SCRIPT: &str = r#"
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
awk '
  { key = $1; sub(/^[^ ]+ ?/, "") }
  $0 == "" { delete undo[key]; next }
  { undo[key] = undo[key] $0 "\n" }
  END { for (key in undo) printf "%s", undo[key] }
' | sh
rm -rf "$1"
"#;

/// Dropping it runs the commands that are left, and waits until the process has ended.
pub struct Watcher {
    process: Child,
    /// None once it is to end.
    lines: Option<ChildStdin>,
}

impl Watcher {
    /// `directory` is the race's own.
    pub fn start(directory: &Path) -> io::Result<Self> {
        let mut process = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(directory)
            // A group of its own: what a terminal sends to the race's group must not end the watcher.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = process.stdin.take();
        Ok(Self { process, lines })
    }

    /// Has this command run after the race, unless `key`, a word, is forgotten before.
    pub fn undo_later(&self, key: &str, command: &[String]) {
        self.write(&format!("{key} {}\n", as_typed(command)));
    }

    /// Has this process group killed after the race, unless the number is forgotten before.
    pub fn kill_later(&self, group: libc::pid_t) {
        self.write(&format!("{group} kill -s KILL -- -{group}\n"));
    }

    pub fn forget(&self, key: impl std::fmt::Display) {
        self.write(&format!("{key}\n"));
    }

    /// One call, which a pipe takes as a whole. A watcher that somebody has killed can be told nothing.
    fn write(&self, line: &str) {
        if let Some(mut lines) = self.lines.as_ref() {
            let _ = lines.write_all(line.as_bytes());
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.process.wait();
    }
}
