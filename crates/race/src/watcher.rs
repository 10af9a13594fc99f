//! A process that outlives the race, also when that is killed. It then undoes what the race did not undo itself.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::typed::as_typed;

/// Reads lines of a key and a shell command, and lines of a key alone, which strike out the key's command. The input ends
/// when the race does. The commands that are left are run then, whatever still runs of the race's is killed, and the
/// race's directory is removed.
///
/// What runs is not told but found, by its standard error, a file in the race's directory: a race may be killed between
/// the start of a process and the line that would tell its number. A process that is being started holds the input open
/// until it executes its program, so that none is missed.
const SCRIPT: &str = r#"
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
awk '
  { key = $1; sub(/^[^ ]+ ?/, "") }
  $0 == "" { delete undo[key]; next }
  { undo[key] = $0 }
  END { for (key in undo) print undo[key] }
' | sh
export DIRECTORY="$1"
ls -l /proc/[0-9]*/fd/2 2>/dev/null | awk '
  index($0, " -> " ENVIRON["DIRECTORY"] "/") { sub(/\/fd\/2 -> .*/, ""); sub(/.* \/proc\//, ""); print }
' | while read -r process; do
  status=$(cat "/proc/$process/stat") || continue
  # The fields after the program's name: state, parent, process group.
  set -- ${status##*) }
  kill -s KILL -- "-$3"
done
rm -rf "$DIRECTORY"
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
