use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::process::wait_until_full;
use crate::support::queue::Queue;
use crate::support::terminal::Terminal;
use crate::support::{Coracle, kvm_is_here};

/// Much longer than it takes, and short enough that a person would not call it a hang.
const AT_ONCE: Duration = Duration::from_secs(5);

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
    if !kvm_is_here() {
        return;
    }
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
    if !kvm_is_here() {
        return;
    }
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
    send 0x200000, 1
2:
    movzx eax, word ptr [0x302002]
    test eax, eax
    jz 2b
    power_off
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

/// Thaws a file system, however its test ends.
struct Thaw<'a>(&'a FileSystem);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        self.thaw();
        let _ = run("umount", &[&self.root()]);
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

#[test]
fn sigterm_gives_the_terminal_back_while_a_disk_is_frozen() {
    const VIRTIO_BLK_T_OUT: u32 = 1;
    if !kvm_is_here() {
        return;
    }
    let file_system = match FileSystem::mount() {
        Ok(file_system) => file_system,
        Err(why) => return println!("not tested here: no file system to freeze: {why}"),
    };
    let disk = Path::new(&file_system.root()).join("disk");
    std::fs::write(&disk, [0; 64 * 512]).unwrap();
    let terminal = Terminal::open(24, 80);
    let before = terminal.modes();
    if let Err(why) = run("fsfreeze", &["--freeze", &file_system.root()]) {
        return println!("not tested here: {why}");
    }
    let kernel = write_and_wait()
        .data(Queue::request(VIRTIO_BLK_T_OUT, 3, &[7; 512]))
        .linux64();
    let running = Coracle::run(&kernel)
        .args(&["--disk", disk.to_str().unwrap()])
        .on_terminal(&terminal)
        .start();
    // Dropped before the run, which cannot be waited for while it is frozen.
    let thawed = Thaw(&file_system);
    // The guest says that its request is on its way.
    std::io::Read::read_exact(&mut &terminal.person, &mut [0]).unwrap();
    assert!(terminal.modes().is_raw());
    let begin = Instant::now();
    running.signal(libc::SIGTERM);
    while terminal.modes() != before {
        assert!(begin.elapsed() < AT_ONCE, "the terminal is still raw");
        thread::yield_now();
    }
    drop(thawed);
    running.end_unread().with_code(143).saying(&["SIGTERM"]);
}
