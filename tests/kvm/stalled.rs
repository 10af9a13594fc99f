use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::pipe::{pipe, wait_until_full};
use crate::support::queue::{OUT, Queue};
use crate::support::terminal::{Modes, Terminal};
use crate::support::{Coracle, Ended, Guest, Running, need_kvm};

/// Much longer than it takes, and short enough that a person would not call it a hang.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

guest!(
    shout,
    "
2:
    send 0x100000, 4096
    jmp 2b
"
);

#[test]
fn sigterm_ends_a_run_whose_terminal_shows_nothing_more_and_restores_it() {
    need_kvm();
    let terminal = Terminal::open(24, 80);
    let before = terminal.modes();
    let running = Coracle::run(&shout().linux64()).on_terminal(&terminal).start();
    wait_until_full(&terminal.program);
    assert!(terminal.modes().is_raw());
    running.signal(libc::SIGTERM);
    let ended = running.end_unread().with_code(143).saying(&["SIGTERM"]);
    assert!(ended.took < AT_ONCE, "{}", ended.describe());
    assert_eq!(terminal.modes(), before);
}

#[test]
fn a_stdout_that_reaches_the_limit_of_a_files_size_is_125_and_named() {
    need_kvm();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("stdout");
    let command = format!("ulimit -f 1; exec \"$@\" >'{}'", file.display());
    Coracle::run(&shout().linux64())
        .through(&["sh", "-c", &command, "sh"])
        .end()
        .with_code(125)
        .saying(&["File too large"]);
    let written = file.metadata().unwrap().len();
    assert!((1..=1024).contains(&written), "{written} bytes");
}

#[test]
fn an_ephemeral_disk_past_the_limit_of_a_files_size_is_refused_and_named() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let option = format!("{},ephemeral", disk.path().display());
    Coracle::run(&shout().linux64())
        .args(&["--disk", &option])
        .through(&["sh", "-c", "ulimit -f 1; exec \"$@\"", "sh"])
        .end()
        .with_code(125)
        .saying(&["cannot make a temporary file", "File too large", "TMPDIR"]);
}

guest!(
    write_and_wait,
    "
    start_disk
    mov dword ptr [rbx + 0x50], 0
    say \"afloat\"
2:
    jmp 2b
"
);

guest!(
    write_and_power_off,
    "
    start_disk
    mov dword ptr [rbx + 0x50], 0
    say \"afloat\"
    request_to_send
    mov ebx, 1
    echo_input
    power_off
"
);

guest!(
    write_and_reset,
    "
    start_disk
    mov dword ptr [rbx + 0x50], 0
    say \"afloat\"
    request_to_send
    mov ebx, 1
    echo_input
    reset
"
);

/// A file system on a file, mounted; a frozen one thaws and goes with it.
struct FileSystem(TempDir);

impl FileSystem {
    fn mount() -> Result<Self, String> {
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        let image = directory.path().join("image").display().to_string();
        let root = directory.path().join("root").display().to_string();
        run("truncate", &["-s", "8M", &image])?;
        run("/sbin/mke2fs", &["-q", "-F", &image])?;
        run("mkdir", &[&root])?;
        run("mount", &["-o", "loop", &image, &root])?;
        Ok(Self(directory))
    }

    fn root(&self) -> String {
        self.0.path().join("root").display().to_string()
    }

    fn thaw(&self) {
        let _ = run("fsfreeze", &["--unfreeze", &self.root()]);
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        self.thaw();
        // Lazily: the run may still have its disk open, and the host lets go of both once it has ended.
        let _ = run("umount", &["--lazy", &self.root()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// A guest on a terminal, whose write to its disk does not end: the disk is on a file system that is frozen.
struct Stuck {
    terminal: Terminal,
    before: Modes,
    // Thawed and unmounted before the run is waited for, which cannot end while it is frozen.
    file_system: FileSystem,
    running: Running,
}

impl Stuck {
    fn start(guest: Guest, arguments: &[&str]) -> Self {
        need_kvm();
        let frozen = FileSystem::mount().and_then(|file_system| {
            let disk = Path::new(&file_system.root()).join("disk");
            std::fs::write(&disk, [0; 64 * 512]).map_err(|error| error.to_string())?;
            run("fsfreeze", &["--freeze", &file_system.root()])?;
            Ok((file_system, disk))
        });
        let (file_system, disk) =
            frozen.unwrap_or_else(|why| panic!("this test freezes a file system, as root: {why}"));
        let terminal = Terminal::open(24, 80);
        let kernel = guest.data(Queue::request(OUT, 3, &[7; 512])).linux64();
        let running = Coracle::run(&kernel)
            .args(&["--disk", &format!("{},engine=sync", disk.display())])
            .args(arguments)
            .on_terminal(&terminal)
            .start();
        let stuck = Self {
            before: terminal.modes(),
            terminal,
            file_system,
            running,
        };
        stuck.wait_until("the write is stuck", || is_writing(stuck.running.machine()));
        stuck.wait_until("the terminal is raw", || stuck.terminal.modes().is_raw());
        stuck
    }

    fn type_in(&self, bytes: &[u8]) {
        (&self.terminal.person).write_all(bytes).unwrap();
    }

    /// The disk hangs still; the terminal is the person's.
    fn wait_for_terminal(&self) {
        self.wait_until("the terminal is restored", || {
            self.terminal.modes() == self.before
        });
        assert!(is_writing(self.running.machine()), "the write is stuck no longer");
    }

    /// For what nothing announces.
    #[track_caller]
    fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            if begin.elapsed() > PATIENCE {
                self.file_system.thaw();
                panic!("waited in vain until {what}");
            }
            thread::yield_now();
        }
    }

    fn thaw_and_end(self) -> Ended {
        self.file_system.thaw();
        self.running.end_unread()
    }
}

/// Whether a thread of this process sleeps in a write at an offset, which is only a disk's thread's (proc(5), `syscall`).
fn is_writing(id: u32) -> bool {
    let calls = [libc::SYS_pwritev2, libc::SYS_pwritev, libc::SYS_pwrite64].map(|number| number.to_string());
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else {
        return false;
    };
    threads.flatten().any(|thread| {
        let call = std::fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
        call.split(' ')
            .next()
            .is_some_and(|number| calls.iter().any(|call| call == number))
    })
}

#[test]
fn sigterm_gives_the_terminal_back_while_a_disk_is_frozen() {
    let stuck = Stuck::start(write_and_wait(), &[]);
    stuck.running.signal(libc::SIGTERM);
    stuck.wait_for_terminal();
    stuck.thaw_and_end().with_code(143).saying(&["SIGTERM"]);
}

#[test]
fn after_a_power_off_the_terminal_is_back_and_a_signal_is_heard_while_a_disk_is_frozen() {
    let stuck = Stuck::start(write_and_power_off(), &[]);
    stuck.type_in(b"x");
    stuck.wait_for_terminal();
    stuck.running.signal(libc::SIGTERM);
    let ended = stuck.thaw_and_end();
    assert_eq!(ended.signal, Some(libc::SIGTERM), "{}", ended.describe());
}

#[test]
fn between_two_boots_ctrl_a_x_is_heard_while_a_disk_is_frozen() {
    let stuck = Stuck::start(write_and_reset(), &["--on-reboot", "restart"]);
    stuck.type_in(b"x");
    let mut shown = Vec::new();
    // The guest sends the byte back, and resets.
    while !shown.ends_with(b"x") {
        let mut byte = [0];
        (&stuck.terminal.person).read_exact(&mut byte).unwrap();
        shown.extend(byte);
    }
    stuck.type_in(b"\x01x");
    stuck.wait_for_terminal();
    stuck.thaw_and_end().with_code(112).saying(&["Ctrl-A x"]);
}

guest!(
    err_and_power_off,
    "
    mov ebx, 0xd0000000
    mov ecx, 3000
2:
    # No such register: a line of the log at level debug.
    mov dword ptr [rbx + 0xf0], 1
    dec ecx
    jnz 2b
    power_off
"
);

#[test]
fn a_log_that_nobody_reads_does_not_stop_the_guest() {
    need_kvm();
    let (_unread, stderr) = pipe();
    Coracle::run(&err_and_power_off().linux64())
        .args(&["-v"])
        .stderr(stderr)
        .end()
        .with_code(0);
}
