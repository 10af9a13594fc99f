//! The socket at the path of `--vsock`, over runs that follow each other and run at once.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::screen::wait_until;
use crate::support::{Coracle, Kernel, Running, need_kvm};

guest!(
    say_it_floats,
    "
    say \"afloat\"
2:
    pause
    jmp 2b
"
);

fn start(kernel: &Kernel, path: &Path) -> Running {
    Coracle::run(kernel)
        .args(&["--vsock", path.to_str().unwrap()])
        .keyboard()
        .start()
}

/// The process of a run that connects to programs of the host.
fn connector(running: &Running) -> String {
    let id = running.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let mut children = children.split_whitespace();
    let connects =
        |child: &&str| fs::read_to_string(format!("/proc/{child}/comm")).unwrap().trim() == "vsock-connect";
    children.find(connects).unwrap().to_owned()
}

fn signal(process: &str, signal: &str) {
    let sent = Command::new("kill").args([signal, process]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_start_after_a_run_that_was_killed_waits_until_its_socket_is_gone_and_keeps_its_own() {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let (path, kernel) = (folder.path().join("socket"), say_it_floats().linux64());
    let mut first = start(&kernel, &path);
    first.wait_for("afloat");
    let connector = connector(&first);
    signal(&connector, "-STOP");
    first.signal(libc::SIGKILL);
    assert_eq!(first.end_unread().signal, Some(libc::SIGKILL));
    let mut second = start(&kernel, &path);
    // Long enough for a start that does not wait.
    thread::sleep(Duration::from_millis(500));
    signal(&connector, "-CONT");
    second.wait_for("afloat");
    wait_until("the first run's second process has ended", || {
        !Path::new(&format!("/proc/{connector}/task")).exists()
            || fs::read_to_string(format!("/proc/{connector}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    });
    let program = UnixStream::connect(&path).expect("the second run listens");
    let (listener, _) = coracle::unix_socket::listener(&program).unwrap();
    assert_eq!(listener as u32, second.id());
    second.signal(libc::SIGTERM);
    second.end().with_code(143);
    wait_until("the socket is gone", || !path.exists());
}

#[test]
fn a_run_begins_as_soon_as_the_last_one_has_ended_and_not_while_it_runs() {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let (path, kernel) = (folder.path().join("socket"), say_it_floats().linux64());
    let mut running = start(&kernel, &path);
    for _ in 0..10 {
        running.wait_for("afloat");
        let refused = start(&kernel, &path).end().with_code(125);
        refused.saying(&["another program listens there"]);
        running.signal(libc::SIGTERM);
        running.end().with_code(143);
        running = start(&kernel, &path);
    }
    running.wait_for("afloat");
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
}
