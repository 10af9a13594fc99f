use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use crate::named::Harbour;
use crate::support::running::PATIENCE;

guest!(
    float_by,
    "
    say \"afloat\\n\"
    sti
2:
    hlt
    jmp 2b
"
);

#[test]
fn a_guest_whose_process_is_stopped_can_be_reached_whoever_connected_before() {
    let harbour = Harbour::new();
    let kernel = float_by().linux64();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    harbour.say(&["kill", "-s", "STOP", "web"]);
    for _ in 0..40 {
        // The process accepts none of its connections. This is refused as soon as no more may wait.
        let _ = harbour.coracle(&["inspect", "web"]).end();
    }
    assert_eq!(harbour.say(&["kill", "-s", "CONT", "web"]), "web\n");
    assert_eq!(harbour.say(&["pause", "web"]), "web\n");
    harbour.say(&["kill", "-s", "STOP", "web"]);
    let stopped = harbour.coracle(&["stop", "-t", "1", "web"]).end().with_code(0);
    stopped.saying(&["guest 'web' was ended: ", "it does not answer"]);
    assert_eq!(harbour.coracle(&["wait", "web"]).end().stdout, b"137\n");
}

#[test]
fn a_guest_whose_control_thread_gave_up_can_be_ended() {
    let harbour = Harbour::new();
    let kernel = float_by().linux64();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    let process = process_of(&harbour, "web");
    let descriptors = || fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    let before = descriptors();
    let connect = || UnixStream::connect(harbour.guests().join("web/control.sock")).unwrap();
    let waiting: Vec<_> = (0..10).map(|_| connect()).collect();
    let deadline = Instant::now() + PATIENCE;
    // No event tells of this, so it polls.
    while descriptors() < before + waiting.len() {
        assert!(Instant::now() < deadline, "the thread does not accept");
        thread::yield_now();
    }
    // Fewer than it waits for, and more than main does.
    let few = libc::rlimit {
        rlim_cur: 8,
        rlim_max: 8,
    };
    // SAFETY: the call reads one rlimit.
    let limited = unsafe { libc::prlimit(process as i32, libc::RLIMIT_NOFILE, &few, std::ptr::null_mut()) };
    assert_eq!(limited, 0);
    let _one_more = connect();
    let has_control = || {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let mut names = tasks
            .flatten()
            .map(|task| fs::read_to_string(task.path().join("comm")));
        names.any(|name| name.is_ok_and(|name| name.trim() == "control"))
    };
    let deadline = Instant::now() + PATIENCE;
    // No event tells of this, so it polls.
    while has_control() {
        assert!(Instant::now() < deadline, "the thread goes on");
        thread::yield_now();
    }
    assert_eq!(harbour.say(&["kill", "web"]), "web\n");
}

guest!(
    float_in_silence,
    "
    sti
2:
    hlt
    jmp 2b
"
);

#[test]
fn who_gives_a_start_up_ends_the_guest() {
    let harbour = Harbour::new();
    let starting = harbour
        .run(&float_in_silence().linux64(), &["-d", "--name", "web"])
        .start();
    let deadline = Instant::now() + PATIENCE;
    // No event tells of this, so it polls.
    while harbour.say(&["ps", "-q"]) != "web\n" {
        assert!(Instant::now() < deadline, "the guest does not start");
    }
    starting.signal(libc::SIGINT);
    let ended = starting.end().with_code(130);
    assert_eq!(ended.stdout, b"");
    assert_eq!(harbour.say(&["ps", "-q"]), "");
}

#[test]
fn who_waits_gets_the_exit_code_also_if_nothing_is_left_of_the_guest() {
    let harbour = Harbour::new();
    let kernel = float_by().linux64();
    harbour
        .run(&kernel, &["-d", "--rm", "--name", "job"])
        .end()
        .with_code(0);
    let waiting = harbour.coracle(&["wait", "job"]).start();
    waiting.wait_until_thread_is_in("coracle", libc::SYS_poll);
    waiting.signal(libc::SIGSTOP);
    harbour.say(&["kill", "-s", "TERM", "job"]);
    let deadline = Instant::now() + PATIENCE;
    // Another command that looks removes the guest.
    while !harbour.entries().is_empty() {
        assert!(Instant::now() < deadline, "the guest does not end");
        harbour.say(&["ps"]);
    }
    waiting.signal(libc::SIGCONT);
    let waited = waiting.end().with_code(0).in_silence();
    assert_eq!(waited.stdout, b"143\n");
}

#[test]
fn a_name_is_not_taken_away_while_another_command_changes_names() {
    let harbour = Harbour::new();
    let kernel = float_by().linux64();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    harbour.say(&["kill", "web"]);
    let other = fs::File::open(harbour.guests()).unwrap();
    other.lock().unwrap();
    for arguments in [["rm", "web"].as_slice(), &["rename", "web", "old"]] {
        let changing = harbour.coracle(arguments).start();
        changing.wait_until_thread_is_in("coracle", libc::SYS_flock);
    }
    // Meanwhile the other one gives the guest another name, and a new guest takes the one that is free.
    fs::rename(harbour.guests().join("web"), harbour.guests().join("other")).unwrap();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    let removing = harbour.coracle(&["rm", "other"]).start();
    removing.wait_until_thread_is_in("coracle", libc::SYS_flock);
    fs::rename(harbour.guests().join("other"), harbour.guests().join("first")).unwrap();
    fs::rename(harbour.guests().join("web"), harbour.guests().join("other")).unwrap();
    drop(other);
    removing
        .end()
        .with_code(125)
        .saying(&["there is no guest 'other'"]);
    assert_eq!(harbour.say(&["ps", "-aq"]), "first\nother\n");
    assert_eq!(harbour.say(&["ps", "-q"]), "other\n");
}

#[test]
fn what_guests_use_is_shown_to_programs_without_escape_codes_until_all_have_ended() {
    let harbour = Harbour::new();
    let kernel = float_by().linux64();
    for name in ["web", "db"] {
        harbour.run(&kernel, &["-d", "--name", name]).end().with_code(0);
    }
    let mut shown = harbour.coracle(&["stats", "web", "db"]).start();
    shown.wait_for("KiB\nNAME");
    harbour.say(&["kill", "web"]);
    // A look without the one that has ended.
    shown.wait_for("OVERHEAD\ndb ");
    harbour.say(&["kill", "db"]);
    let shown = shown
        .end()
        .with_code(0)
        .saying(&["guest 'web' has ended", "guest 'db' has ended"]);
    assert!(!shown.stdout.contains(&0x1b), "{}", shown.describe());
    harbour.refuse(&["stats", "web"], &["guest 'web' does not run"]);
}

#[test]
fn a_directory_that_cannot_be_read_keeps_no_command_from_the_others() {
    let harbour = Harbour::new();
    let kernel = float_by().linux64();
    for name in ["db", "web"] {
        harbour.run(&kernel, &["-d", "--name", name]).end().with_code(0);
        harbour.say(&["kill", name]);
    }
    let directory = harbour.guests().join("db");
    fs::set_permissions(&directory, Permissions::from_mode(0o0)).unwrap();
    for (arguments, printed) in [
        (["ps", "-aq"], "web\n"),
        (["ps", "-qfstatus=exited"], "web\n"),
        (["prune", "-f"], "web\n"),
        (["ps", "-aq"], ""),
    ] {
        let ended = harbour
            .coracle(&arguments)
            .without_capabilities()
            .end()
            .with_code(125);
        let ended = ended.saying(&["cannot look at guest 'db': ", "ermission denied"]);
        assert_eq!(String::from_utf8_lossy(&ended.stdout), printed, "{arguments:?}");
    }
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(harbour.say(&["ps", "-aq"]), "db\n");
}

/// The number of the guest's process.
fn process_of(harbour: &Harbour, name: &str) -> i64 {
    let inspected: serde_json::Value = serde_json::from_str(&harbour.say(&["inspect", name])).unwrap();
    inspected[0]["process"].as_i64().unwrap()
}
