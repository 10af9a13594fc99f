use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Coracle, Ended, Kernel, need_kvm};

guest!(
    greet_and_wait,
    "
    say \"afloat\\n\"
    sti
2:
    hlt
    jmp 2b
"
);

guest!(
    print_on_and_on,
    "
2:
    say \"ahoy\\n\"
    jmp 2b
"
);

guest!(
    say_two_lines_and_power_off,
    "
    say \"one\\ntwo\\n\"
    power_off
"
);

guest!(
    say_what_a_kernel_says_and_reset,
    "
    say \"[    0.1] booting\\n\"
    reset
"
);

/// A user's runtime directory, in which no guest is at first. All guests end with it.
struct Harbour(TempDir);

impl Harbour {
    fn new() -> Self {
        need_kvm();
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// `coracle` with these arguments, in this runtime directory.
    fn coracle(&self, arguments: &[&str]) -> Coracle {
        self.place(Coracle::new(arguments))
    }

    fn place(&self, coracle: Coracle) -> Coracle {
        coracle.through(&["env", &format!("XDG_RUNTIME_DIR={}", self.0.path().display())])
    }

    fn run(&self, kernel: &Kernel, arguments: &[&str]) -> Coracle {
        self.place(Coracle::run(kernel).args(arguments))
    }

    /// Runs a command that is to succeed without a message, and gives what it prints.
    #[track_caller]
    fn say(&self, arguments: &[&str]) -> String {
        let ended = self.coracle(arguments).end().with_code(0).in_silence();
        String::from_utf8(ended.stdout).expect("it prints text")
    }

    #[track_caller]
    fn refuse(&self, arguments: &[&str], words: &[&str]) -> Ended {
        self.coracle(arguments).end().with_code(125).saying(words)
    }

    fn guests(&self) -> PathBuf {
        self.0.path().join("coracle")
    }

    /// What is in the directory of guests.
    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.guests());
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Harbour {
    fn drop(&mut self) {
        let names = self.coracle(&["ps", "-q"]).end().stdout;
        for name in String::from_utf8_lossy(&names).lines() {
            self.coracle(&["kill", name]).end();
        }
    }
}

#[test]
fn a_detached_guest_is_listed_logged_waited_for_and_removed() {
    let harbour = Harbour::new();
    let kernel = greet_and_wait().linux64();
    let started = harbour
        .run(&kernel, &["-d", "--name", "web"])
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(started.stdout, b"web\n");
    let listed = harbour.say(&["ps"]);
    assert!(
        listed.starts_with("NAME ") && listed.contains("\nweb ") && listed.contains("Up "),
        "{listed}"
    );
    assert_eq!(harbour.say(&["logs", "web"]), "afloat\n");
    let taken = "the name 'web' is taken by a guest that runs";
    harbour
        .run(&kernel, &["--name", "web"])
        .end()
        .with_code(125)
        .saying(&[taken]);
    harbour.refuse(&["rm", "web"], &["guest 'web' runs", "rm -f"]);

    let waiting = harbour.coracle(&["wait", "web"]).start();
    assert_eq!(harbour.say(&["kill", "web"]), "web\n");
    let waited = waiting.end().with_code(0).saying(&["was killed"]);
    assert_eq!(waited.stdout, b"137\n");

    assert_eq!(harbour.say(&["ps", "-q"]), "");
    assert!(harbour.say(&["ps", "-a"]).contains("Killed"));
    assert_eq!(harbour.say(&["logs", "web"]), "afloat\n");
    harbour.refuse(&["kill", "web"], &["guest 'web' does not run"]);
    let taken = "the name 'web' is taken by a guest that has ended (coracle rm web";
    harbour
        .run(&kernel, &["-d", "--name", "web"])
        .end()
        .with_code(125)
        .saying(&[taken]);
    assert_eq!(harbour.say(&["rm", "web"]), "web\n");
    assert_eq!(harbour.entries(), [""; 0]);
    harbour.refuse(&["rm", "web"], &["there is no guest 'web'"]);
}

#[test]
fn a_guest_in_the_foreground_can_have_a_name_and_leaves_its_exit_code_and_log() {
    let harbour = Harbour::new();
    let kernel = say_two_lines_and_power_off().linux64();
    let run = harbour
        .run(&kernel, &["--name", "brief"])
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(run.stdout, b"one\ntwo\n");
    assert_eq!(harbour.say(&["wait", "brief"]), "0\n");
    assert_eq!(harbour.say(&["logs", "--tail", "1", "-f", "brief"]), "two\n");
    let json = harbour.say(&["ps", "-a", "--json"]);
    let guests: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(guests[0]["name"], "brief");
    assert_eq!(guests[0]["status"], "exited");
    assert_eq!(guests[0]["exit_code"], 0);
    assert_eq!(guests[0]["kernel"], kernel.path().to_str().unwrap());
}

#[test]
fn with_rm_nothing_is_left_and_the_name_is_free() {
    let harbour = Harbour::new();
    let kernel = say_two_lines_and_power_off().linux64();
    for _ in 0..2 {
        let run = harbour.run(&kernel, &["--rm", "--name", "brief"]);
        run.end().with_code(0).in_silence();
    }
    assert_eq!(harbour.say(&["ps", "-aq"]), "");
    assert_eq!(harbour.entries(), [""; 0]);
}

#[test]
fn a_detached_guest_that_does_not_start_says_why_as_one_in_the_foreground() {
    let harbour = Harbour::new();
    let missing = ["run", "-d", "--name", "web", "--kernel", "/nowhere/vmlinuz"];
    let ended = harbour.coracle(&missing).end().with_code(127);
    ended.saying(&["/nowhere/vmlinuz"]);
    // No guest ran, so nothing is left of it.
    assert_eq!(harbour.entries(), [""; 0]);

    let no_kernel = Kernel::new(b"no kernel at all");
    harbour
        .run(&no_kernel, &["-d", "--name", "web"])
        .end()
        .with_code(125)
        .saying(&["kernel"]);
    assert_eq!(harbour.say(&["ps", "-aq"]), "");
    assert_eq!(harbour.entries(), [""; 0]);

    let rebooting = say_what_a_kernel_says_and_reset().linux64();
    let ended = harbour
        .run(&rebooting, &["-d", "--name", "web"])
        .end()
        .with_code(100);
    assert_eq!(ended.stdout, b"");
    ended.saying(&["the guest rebooted"]);
    // This one ran.
    assert!(harbour.say(&["ps", "-a"]).contains("Exited (100)"));
    assert_eq!(harbour.say(&["wait", "web"]), "100\n");
}

#[test]
fn a_guest_without_a_name_in_the_background_gets_two_words() {
    let harbour = Harbour::new();
    let kernel = greet_and_wait().linux64();
    let names: Vec<_> = (0..3)
        .map(|_| {
            let started = harbour.run(&kernel, &["-d"]).end().with_code(0).in_silence();
            String::from_utf8(started.stdout).unwrap()
        })
        .collect();
    assert!(
        names.iter().all(|name| name.trim_end().split('-').count() >= 2),
        "{names:?}"
    );
    let listed = harbour.say(&["ps", "-q"]);
    assert!(
        names.iter().all(|name| listed.contains(name)),
        "{listed}, {names:?}"
    );
    let removed: Vec<&str> = names.iter().map(|name| name.trim_end()).collect();
    harbour.say(&[&["rm", "-f"], &removed[..]].concat());
    assert_eq!(harbour.entries(), [""; 0]);
}

#[test]
fn a_follower_of_a_log_gets_what_is_printed_until_the_end() {
    let harbour = Harbour::new();
    let kernel = greet_and_wait().linux64();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    let mut following = harbour.coracle(&["logs", "-f", "web"]).start();
    following.wait_for("afloat\n");
    harbour.say(&["kill", "-s", "TERM", "web"]);
    following.end().with_code(0).in_silence();
    // Ended in order, so its end was written down.
    assert_eq!(harbour.say(&["wait", "web"]), "143\n");
}

#[test]
fn a_guest_that_is_paused_stands_still_until_it_is_resumed() {
    let harbour = Harbour::new();
    let kernel = print_on_and_on().linux64();
    harbour
        .run(&kernel, &["-d", "--name", "web"])
        .end()
        .with_code(0)
        .in_silence();
    let mut following = harbour.coracle(&["logs", "-f", "--tail", "0", "web"]).start();
    following.wait_for("ahoy\n");
    assert_eq!(harbour.say(&["pause", "web"]), "web\n");
    assert!(harbour.say(&["ps"]).contains("(Paused)"));
    let inspected: serde_json::Value = serde_json::from_str(&harbour.say(&["inspect", "web"])).unwrap();
    assert_eq!(inspected[0]["status"], "paused");
    let process = inspected[0]["process"].as_i64().unwrap();
    for thread in ["vcpu-0", "log"] {
        wait_until_thread_waits(process, thread);
    }
    let log = harbour.guests().join("web/console.log");
    let length = || fs::metadata(&log).unwrap().len();
    let before = length();
    harbour.say(&["ps"]);
    assert_eq!(length(), before);
    assert_eq!(harbour.say(&["unpause", "web"]), "web\n");
    assert!(!harbour.say(&["ps"]).contains("(Paused)"));
    while length() == before {
        thread::yield_now();
    }
    // A guest that is paused can be ended as well.
    harbour.say(&["pause", "web"]);
    harbour.say(&["kill", "-s", "TERM", "web"]);
    following.end().with_code(0);
    assert_eq!(harbour.say(&["wait", "web"]), "143\n");
    harbour.refuse(&["pause", "web"], &["guest 'web' does not run"]);
}

/// Waits until the thread of this name waits for another one.
fn wait_until_thread_waits(process: i64, name: &str) {
    let waits = |task: fs::DirEntry| {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        read("comm").trim() == name && read("syscall").starts_with(&format!("{} ", libc::SYS_futex))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    // No event tells of this, so it polls.
    while !fs::read_dir(format!("/proc/{process}/task"))
        .unwrap()
        .flatten()
        .any(waits)
    {
        assert!(Instant::now() < deadline, "{name} does not wait");
        thread::yield_now();
    }
}

/// Ends a command before it makes a system call, as SIGKILL would there, and checks what others find then.
fn is_ended_before(call: i64, name: &str, prepare: &[&str], arguments: &[&str]) {
    let harbour = Harbour::new();
    let kernel = greet_and_wait().linux64();
    fs::DirBuilder::new()
        .mode(0o700)
        .create(harbour.guests())
        .unwrap();
    if !prepare.is_empty() {
        harbour.run(&kernel, prepare).end().with_code(0);
        harbour.say(&["kill", "web"]);
    }
    let command = match arguments {
        ["run", options @ ..] => harbour.run(&kernel, options),
        _ => harbour.coracle(arguments),
    };
    let ended = command.where_call_kills(call).end();
    let is_killed = ended.signal == Some(libc::SIGSYS) || ended.code == Some(128 + libc::SIGSYS);
    assert!(is_killed, "{name} is a point of it: {}", ended.describe());
    // Nothing is there but what ps -a lists, and that does not run.
    assert_eq!(harbour.say(&["ps", "-q"]), "", "{name}");
    let listed = harbour.say(&["ps", "-aq"]);
    assert_eq!(harbour.entries(), listed.lines().collect::<Vec<_>>(), "{name}");
    // What was begun can be done again.
    match listed.as_str() {
        "" => (),
        _ => _ = harbour.say(&["rm", "web"]),
    }
    let again = harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    assert_eq!(again.stdout, b"web\n", "{name}");
}

#[test]
fn a_start_that_is_killed_at_any_point_leaves_no_guest_and_blocks_no_name() {
    for (call, name) in [
        (libc::SYS_mkdir, "before the directory is made"),
        (libc::SYS_fcntl, "before its lock is taken"),
        (libc::SYS_bind, "before the directory is filled"),
        (libc::SYS_clone, "before the guest's process is made"),
        (libc::SYS_setsid, "before the guest's process leaves the terminal"),
        (libc::SYS_dup2, "before it has its own messages"),
        (libc::SYS_rename, "before the directory has the guest's name"),
        (libc::SYS_seccomp, "after that, before the guest runs"),
    ] {
        is_ended_before(call, name, &[], &["run", "-d", "--name", "web"]);
    }
}

#[test]
fn a_removal_that_is_killed_at_any_point_leaves_the_guest_or_nothing() {
    for (call, name) in [
        (libc::SYS_rename, "before the directory is no guest's any more"),
        (libc::SYS_unlinkat, "before it is emptied"),
    ] {
        is_ended_before(call, name, &["-d", "--name", "web"], &["rm", "web"]);
    }
}

/// Makes the directory of guests, with one of this name in it.
fn make_guest(harbour: &Harbour, name: &str) -> PathBuf {
    let path = harbour.guests().join(name);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&path).unwrap();
    path
}

fn make_pipe(path: &Path) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path ends with NUL.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[test]
fn directories_that_no_guest_made_neither_hang_nor_mislead_anybody() {
    let harbour = Harbour::new();
    let lies = r#"{"created": 99999999999, "cpus": 1, "kernel": "\u001b[2Jx", "cmdline": 5}"#;
    let with =
        |name: &str, file: &str, text: &str| fs::write(make_guest(&harbour, name).join(file), text).unwrap();
    with("half", "guest.json", "{\"cpus\": ");
    with("liar", "guest.json", lies);
    with("ended", "exit.json", r#"{"exit_code": 999, "ran": true}"#);
    for (name, file) in [
        ("pipes", "guest.json"),
        ("pipes", "exit.json"),
        ("pipes", "console.log"),
        ("locked", "lock"),
    ] {
        make_pipe(&make_guest(&harbour, name).join(file));
    }
    symlink("/etc/passwd", make_guest(&harbour, "link").join("guest.json")).unwrap();
    symlink("/etc", harbour.guests().join("etc")).unwrap();
    let huge = fs::File::create(make_guest(&harbour, "huge").join("guest.json")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let log = fs::File::create(make_guest(&harbour, "huge").join("console.log")).unwrap();
    log.set_len(1 << 40).unwrap();
    make_guest(&harbour, "empty");
    make_guest(&harbour, ".new-1");
    make_guest(&harbour, ".gone-1");
    make_guest(&harbour, "a name");
    fs::write(harbour.guests().join("file"), "").unwrap();
    // It listens, and never answers.
    let _socket = UnixListener::bind(make_guest(&harbour, "silent").join("control.sock")).unwrap();

    assert_eq!(harbour.say(&["ps", "-q"]), "");
    let listed = harbour.say(&["ps", "-a"]);
    assert!(!listed.contains('\x1b'), "{listed}");
    let listed = harbour.say(&["ps", "-aq"]);
    let names: Vec<_> = listed.lines().collect();
    assert_eq!(
        names,
        [
            "empty", "ended", "half", "huge", "liar", "link", "pipes", "silent"
        ]
    );
    for name in names {
        harbour.refuse(&["kill", name], &["does not run"]);
        assert_eq!(
            harbour.coracle(&["wait", name]).end().with_code(0).stdout,
            b"137\n"
        );
        let log = harbour.coracle(&["logs", "-f", name]).end();
        assert!(
            log.code == Some(125) || log.stdout.is_empty(),
            "{}",
            log.describe()
        );
        harbour.say(&["rm", name]);
    }
    assert_eq!(harbour.entries(), ["a name", "etc", "file", "locked"]);
    assert!(Path::new("/etc/passwd").exists());
    for name in ["etc", "file", "a name", "..", "../x", "\x1b[2J"] {
        harbour.refuse(&["rm", "-f", name], &["there is no guest"]);
    }
}

#[test]
fn a_directory_of_guests_that_others_can_use_is_refused() {
    let harbour = Harbour::new();
    fs::create_dir(harbour.guests()).unwrap();
    fs::set_permissions(harbour.guests(), fs::Permissions::from_mode(0o755)).unwrap();
    let kernel = greet_and_wait().linux64();
    let refused = |words: &str| {
        let words = [words, "XDG_RUNTIME_DIR"];
        harbour.refuse(&["ps"], &words);
        harbour.run(&kernel, &["-d"]).end().with_code(125).saying(&words);
    };
    refused("0700");
    fs::remove_dir(harbour.guests()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), harbour.guests()).unwrap();
    refused("it is no directory");
    fs::remove_file(harbour.guests()).unwrap();
}
