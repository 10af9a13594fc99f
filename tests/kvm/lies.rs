use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};

use crate::left_behind::make_pipe;
use crate::named::{Harbour, greet_and_wait};

/// A process that has nothing to do with Coracle.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().expect("there is sleep"))
    }

    fn lives(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes the directory of a guest that seems to run: its lock is held as long as the file is open.
fn seems_to_run(directory: &Path) -> File {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .unwrap();
    let lock = File::create(directory.join("lock")).unwrap();
    // SAFETY: a flock of zeroes is a valid value, and the call reads it.
    let is_locked = unsafe {
        let mut first_byte: libc::flock = std::mem::zeroed();
        first_byte.l_type = libc::F_WRLCK as libc::c_short;
        first_byte.l_len = 1;
        libc::fcntl(lock.as_raw_fd(), libc::F_OFD_SETLK, &first_byte)
    };
    assert_eq!(is_locked, 0, "{}", io::Error::last_os_error());
    lock
}

#[test]
fn a_directory_that_lies_about_its_guests_process_ends_no_other_and_keeps_nobody_waiting() {
    // A guest of somebody else, whose process is not to be touched.
    let elsewhere = Harbour::new();
    let kernel = greet_and_wait().linux64();
    elsewhere
        .run(&kernel, &["-d", "--name", "other"])
        .end()
        .with_code(0);
    let socket_of_other = elsewhere.guests().join("other/control.sock");

    let harbour = Harbour::new();
    let mut stranger = Stranger::new();
    let number = stranger.0.id();
    // All that a record of a guest may be, and numbers that are out of range.
    let records = [
        format!(r#"{{"process": {number}, "pid": {number}, "cpus": 1, "memory": 134217728}}"#),
        format!(
            r#"{{"process": {number}, "cpus": 255, "memory": 18446744073709551615, "created": 18446744073709551615}}"#
        ),
        r#"{"cpus": 256, "memory": -1, "created": 1e999, "remove": true}"#.into(),
        format!(r#"{{"cmdline": "{}", "disks": ["#, "x".repeat(1 << 20)),
        "[".repeat(1 << 16),
    ];
    let make_socket = |kind: &str, path: &Path| match kind {
        "dead" => drop(UnixListener::bind(path).unwrap()),
        "directory" => fs::create_dir(path).unwrap(),
        "file" => fs::write(path, number.to_string()).unwrap(),
        "link" => symlink(&socket_of_other, path).unwrap(),
        "loop" => symlink(path, path).unwrap(),
        "pipe" => make_pipe(path),
        _ => (),
    };
    let names = ["dead", "directory", "file", "link", "loop", "none", "pipe"];
    let mut locks = Vec::new();
    for (name, record) in names.iter().zip(records.iter().cycle()) {
        let directory = harbour.guests().join(name);
        locks.push(seems_to_run(&directory));
        make_socket(name, &directory.join("control.sock"));
        fs::write(directory.join("guest.json"), record).unwrap();
        fs::write(directory.join("exit.json"), r#"{"exit_code": -1, "process": 1}"#).unwrap();
    }

    let listed = harbour.say(&["ps", "-q"]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), names);
    for command in [["ps", "-a"].as_slice(), &["ps", "--json"]] {
        harbour.say(command);
    }
    assert_eq!(harbour.say(&["prune"]), "");
    harbour.say(&["stats", "--no-stream"]);
    for name in names {
        let refuse = |command: &[&str], options: &[&str]| {
            harbour.refuse(
                &[command, &[name], options].concat(),
                &[&format!("guest '{name}'")],
            );
        };
        for command in [
            ["inspect"].as_slice(),
            &["kill"],
            &["stop"],
            &["stop", "-t", "0"],
            &["rm"],
            &["rm", "-f"],
            &["pause"],
            &["attach"],
        ] {
            refuse(command, &[]);
        }
        refuse(&["exec"], &["true"]);
        assert!(stranger.lives(), "{name}");
    }
    assert_eq!(harbour.entries(), names);
    assert_eq!(elsewhere.say(&["ps", "-q"]), "other\n");
    // They do not run any more.
    drop(locks);
    for name in names {
        harbour.say(&["rm", name]);
    }
    assert_eq!(harbour.entries(), [""; 0]);
    assert!(stranger.lives());
    assert_eq!(elsewhere.say(&["ps", "-q"]), "other\n");
}

#[test]
fn a_record_that_makes_no_sense_runs_no_program() {
    let harbour = Harbour::new();
    let directory = harbour.guests().join("lying");
    let _lock = seems_to_run(&directory);
    // As whom a program of it runs is not known.
    for record in [
        "",
        "{",
        r#"{"program": {"arguments": ["sleep"], "user": [49, 256]}}"#,
        r#"{"program": {"arguments": ["sleep"], "user": [[]]}}"#,
        r#"{"program": {"arguments": ["sleep"], "environment": ["NO_VALUE"]}}"#,
        r#"{"program": {"arguments": ["sleep"], "directory": "/\u0000"}}"#,
        r#"{"program": {"arguments": []}}"#,
    ] {
        fs::write(directory.join("guest.json"), record).unwrap();
        harbour.refuse(
            &["exec", "lying", "true"],
            &["guest 'lying' is damaged", "guest.json"],
        );
    }
    fs::remove_file(directory.join("guest.json")).unwrap();
    harbour.refuse(&["exec", "lying", "true"], &["guest 'lying' is damaged"]);
    harbour.say(&["ps"]);
}
