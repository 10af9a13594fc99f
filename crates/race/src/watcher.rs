//! A process that outlives the race, also when that is killed. It then undoes what the race did not undo itself.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::typed::as_typed;

/// Reads lines of a key and a shell command, and lines of a key alone, which strike out all commands of that key. The
/// input ends when the race does. The commands that are left are run then, and the race's directory is removed.
///
/// A race may be killed between the start of a process and the line that tells of it. So, where commands are left, whoever still
/// has a file of the race's directory as standard error is killed, too. A process that is being started holds the input open
/// until it executes its program: none is missed, but for one of a person's that has made itself undumpable in this moment.
const SCRIPT: &str = r#"
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
directory=$1
left=$(awk '
  { key = $1; sub(/^[^ ]+ ?/, "") }
  $0 == "" { delete undo[key]; next }
  { undo[key] = undo[key] $0 "\n" }
  END { for (key in undo) printf "%s", undo[key] }
')
if [ -n "$left" ]; then
  printf '%s\n' "$left" | sh
  # As /proc has it.
  real=$(cd "$directory" && pwd -P)
  for errors in /proc/[0-9]*/fd/2; do
    case $(readlink "$errors") in "$real"/*) ;; *) continue ;; esac
    status=$(cat "${errors%/fd/2}/stat") || continue
    # After the program's name: its state, its parent, its group.
    set -- ${status##*) }
    [ "$3" -le 1 ] || kill -s KILL -- "-$3"
  done
fi
rm -rf "$directory"
"#;

/// The key of a command that does nothing, which is left only by a race that is killed.
const RACE: &str = "race";

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
        let watcher = Self { process, lines };
        watcher.write(&format!("{RACE} :\n"));
        Ok(watcher)
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
        self.forget(RACE);
        self.lines = None;
        let _ = self.process.wait();
    }
}
