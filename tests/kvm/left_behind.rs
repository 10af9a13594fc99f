use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::named::Harbour;

guest!(
    greet,
    "
    say \"afloat\\n\"
    sti
2:
    hlt
    jmp 2b
"
);

/// Ends a command before it makes a system call, as SIGKILL would there, and checks what others find then.
fn is_ended_before(call: i64, name: &str, prepare: &[&str], arguments: &[&str]) {
    let harbour = Harbour::new();
    let kernel = greet().linux64();
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
    // What was begun can be done again. Nothing is left of a guest that never ran.
    match arguments {
        ["run", ..] => assert_eq!(listed, "", "{name}"),
        _ if listed.is_empty() => (),
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

pub fn make_pipe(path: &Path) {
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
    with("silent", "lock", "");

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
        // One of them has a log, which is one hole.
        let code = if name == "huge" { 0 } else { 125 };
        assert_eq!(log.with_code(code).stdout, b"");
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
    let kernel = greet().linux64();
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

#[test]
fn a_renaming_that_is_killed_leaves_the_guest_as_it_was() {
    let arguments = ["rename", "web", "other"];
    is_ended_before(
        libc::SYS_rename,
        "before the directory has the other name",
        &["-d", "--name", "web"],
        &arguments,
    );
}

#[test]
fn a_guest_without_its_lock_file_runs_until_its_process_ends() {
    let harbour = Harbour::new();
    let kernel = greet().linux64();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    fs::remove_file(harbour.guests().join("web/lock")).unwrap();
    assert_eq!(harbour.say(&["prune"]), "");
    assert_eq!(harbour.say(&["ps", "-q"]), "web\n");
    harbour
        .run(&kernel, &["--name", "web"])
        .end()
        .with_code(125)
        .saying(&["the name 'web' is taken by a guest that runs"]);
    assert_eq!(harbour.say(&["kill", "web"]), "web\n");
    assert_eq!(harbour.say(&["ps", "-q"]), "");
    assert_eq!(harbour.say(&["prune"]), "web\n");
}

#[test]
fn files_of_a_guest_that_runs_are_none_that_a_cleaner_removes() {
    let harbour = Harbour::new();
    let kernel = greet().linux64();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    // tmpfiles.d(5): a directory that somebody else has locked is left alone.
    let directory = fs::File::open(harbour.guests().join("web")).unwrap();
    let would_clean = || directory.try_lock().is_ok();
    assert!(!would_clean());
    harbour.say(&["kill", "web"]);
    assert!(would_clean());
}

#[test]
fn more_guests_than_a_command_may_have_descriptors_are_listed_and_removed() {
    let harbour = Harbour::new();
    let names: Vec<_> = (10..50).map(|number| format!("guest-{number}")).collect();
    for name in &names {
        make_guest(&harbour, name);
    }
    let with_few = |arguments: &[&str]| {
        let shell = ["sh", "-c", "ulimit -n 32; exec \"$@\"", "sh"];
        let ended = harbour.coracle(arguments).through(&shell).end();
        String::from_utf8(ended.with_code(0).in_silence().stdout).unwrap()
    };
    let all = names.join("\n") + "\n";
    assert_eq!(with_few(&["ps", "-aq"]), all);
    assert_eq!(with_few(&["prune"]), all);
    assert_eq!(harbour.entries(), [""; 0]);
}

#[test]
fn a_guest_that_cannot_be_looked_at_is_an_error_that_says_why() {
    let harbour = Harbour::new();
    make_guest(&harbour, "web");
    let shell = ["sh", "-c", "ulimit -n 5; exec \"$@\"", "sh"];
    let ended = harbour.coracle(&["rm", "web"]).through(&shell).end();
    ended.with_code(125).saying(&["Too many open files"]);
    assert_eq!(harbour.entries(), ["web"]);
}
