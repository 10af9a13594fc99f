//! Commands about a Linux guest that are killed before each system call that changes something. The nested machine has some of these
//! calls, unless all are asked for.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::exec::{COUNT, say, wait_for_count};
use crate::harbour::Harbour;
use crate::place;
use crate::traced::run_until;

crate::group!["killed":
    a_command_in_a_guest_whose_client_is_killed_leaves_nothing_there,
    a_stop_leaves_a_guest_that_runs_or_has_ended,
    a_start_for_a_command_leaves_a_guest_that_runs_or_none,
    a_copy_out_of_a_guest_leaves_old_files_or_new_ones,
    a_copy_into_a_guest_leaves_old_files_or_new_ones,
];

/// The calls before which a command is killed that makes so many: all, or some where each takes a second.
fn points(calls: usize) -> impl Iterator<Item = usize> {
    let one_of = if place::is_full() { 1 } else { calls.div_ceil(3) };
    // The last calls are those that matter most.
    (0..calls).rev().step_by(one_of)
}

fn run(harbour: &Harbour, arguments: &[&str], at: Option<usize>) -> usize {
    let mut command = Command::new(place::coracle());
    command
        .args(arguments)
        .env("XDG_RUNTIME_DIR", harbour.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    run_until(command, at)
}

fn a_command_in_a_guest_whose_client_is_killed_leaves_nothing_there() {
    let harbour = Harbour::with_web(&[]);
    let arguments = ["exec", "web", "sh", "-c", "echo hello"];
    let calls = run(&harbour, &arguments, None);
    say(&harbour, COUNT);
    let before = say(&harbour, COUNT);
    let open = harbour.descriptors_of_web();
    eprintln!("exec: {calls} points");
    for at in points(calls) {
        run(&harbour, &arguments, Some(at));
        wait_for_count(&harbour, &before);
        let deadline = Instant::now() + Duration::from_secs(10);
        while harbour.descriptors_of_web() != open {
            assert!(Instant::now() < deadline, "point {at}: not {open} descriptors");
        }
    }
}

/// A guest for a command, which has this word among its arguments. So has the guest's process.
fn start(word: &str) -> [&str; 11] {
    [
        "run",
        "-d",
        "--name",
        "web",
        "-m",
        "64M",
        "--",
        "sh",
        "-c",
        "sleep 1000",
        word,
    ]
}

/// The processes that have `word` among their arguments.
fn processes_with(word: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let arguments = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    arguments
        .map(|arguments| String::from_utf8_lossy(&arguments).replace('\0', " "))
        .filter(|arguments| arguments.contains(word))
        .collect()
}

/// Kills a command at each of its points, and checks what others find then: a process if a guest is listed as one that runs, nothing
/// that is not listed, and that all of it can be removed.
fn each_point(prepare: impl Fn(&Harbour), harbour: &Harbour, arguments: &[&str]) {
    let word = harbour.path().to_str().unwrap();
    let traced = |at| {
        prepare(harbour);
        run(harbour, arguments, at)
    };
    let entries = || {
        let entries = fs::read_dir(harbour.path().join("coracle")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let clear = |point: &str| {
        // The guest's process outlives the command, and may still start or end.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let running = harbour.say(&["ps", "-q"]);
            let listed = harbour.say(&["ps", "-aq"]);
            let (processes, entries) = (processes_with(word), entries());
            if running.lines().count() == processes.len() && entries == listed.lines().collect::<Vec<_>>() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{point}: {running:?} run, {listed:?} are listed; there are {processes:?} and {entries:?}"
            );
        }
        for name in harbour.say(&["ps", "-aq"]).lines() {
            harbour.say(&["rm", "-f", name]);
        }
        assert_eq!((entries(), processes_with(word)), (vec![], vec![]), "{point}");
    };
    let calls = traced(None);
    clear("not killed");
    eprintln!("{}: {calls} points", arguments[0]);
    for at in points(calls) {
        traced(Some(at));
        clear(&format!("killed before call {at}"));
    }
}

fn a_stop_leaves_a_guest_that_runs_or_has_ended() {
    let harbour = Harbour::new();
    let start = start(harbour.path().to_str().unwrap());
    let prepare = |harbour: &Harbour| assert_eq!(harbour.say(&start), "web\n");
    each_point(prepare, &harbour, &["stop", "web"]);
}

fn a_start_for_a_command_leaves_a_guest_that_runs_or_none() {
    let harbour = Harbour::new();
    let start = start(harbour.path().to_str().unwrap());
    each_point(|_| (), &harbour, &start);
}

fn a_copy_out_of_a_guest_leaves_old_files_or_new_ones() {
    let harbour = Harbour::with_web(&[]);
    say(
        &harbour,
        "mkdir /tmp/d; cd /tmp/d; echo new >added; echo new >replaced; ln -s added link",
    );
    let to = harbour.path().join("to");
    let prepare = || {
        let _ = fs::remove_dir_all(&to);
        fs::create_dir(&to).unwrap();
        fs::write(to.join("replaced"), "old\n").unwrap();
    };
    let found = || {
        let mut names: Vec<_> = fs::read_dir(&to)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let text = |name: &str| fs::read_to_string(to.join(name)).unwrap_or_default();
        (names.join(" "), text("replaced"), text("added"))
    };
    copies(
        &harbour,
        &["cp", "web:/tmp/d/.", to.to_str().unwrap()],
        prepare,
        found,
    );
}

fn a_copy_into_a_guest_leaves_old_files_or_new_ones() {
    let harbour = Harbour::with_web(&[]);
    let from = harbour.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("added"), "new\n").unwrap();
    fs::write(from.join("replaced"), "new\n").unwrap();
    symlink("added", from.join("link")).unwrap();
    let prepare = || {
        say(&harbour, "rm -rf /tmp/d; mkdir /tmp/d; echo old >/tmp/d/replaced");
    };
    let found = || {
        // The agent may not have noticed yet that its client is gone.
        let script = "while ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /tmp/d; do :; done; \
            cd /tmp/d; echo $(ls -A); cat replaced; cat added 2>/dev/null; true";
        let said = say(&harbour, script);
        let mut lines = said.split_inclusive('\n');
        let mut line = || lines.next().unwrap_or_default().to_owned();
        (line().trim().to_owned(), line(), line())
    };
    let contents = format!("{}/.", from.display());
    copies(&harbour, &["cp", &contents, "web:/tmp/d"], prepare, found);
}

/// Kills a copy of the files `added` and `replaced` and of a link at each of its points. `found` gives the names that are where they
/// go, and what is in the two.
fn copies(
    harbour: &Harbour,
    arguments: &[&str],
    prepare: impl Fn(),
    found: impl Fn() -> (String, String, String),
) {
    prepare();
    let calls = run(harbour, arguments, None);
    eprintln!("{arguments:?}: {calls} points");
    for at in points(calls) {
        prepare();
        run(harbour, arguments, Some(at));
        let (names, replaced, added) = found();
        assert!(
            ["old\n", "new\n"].contains(&replaced.as_str()) && ["", "new\n"].contains(&added.as_str()),
            "point {at}: {names:?}, {replaced:?}, {added:?}"
        );
        // Whatever is there, the next copy leaves what is to be there.
        harbour.say(arguments);
        let expected = ("added link replaced".into(), "new\n".into(), "new\n".into());
        assert_eq!(found(), expected, "point {at}");
    }
}
