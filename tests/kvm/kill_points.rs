//! Commands about a guest with a name, and the guest's own process, killed before each system call that changes something.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::named::{Harbour, power_off_when_the_button_is_pressed};
use crate::support::Kernel;
use crate::support::running::PATIENCE;
use crate::support::traced::run_until;

guest!(
    float,
    "
    say \"afloat\\n\"
    sti
2:
    hlt
    jmp 2b
"
);

guest!(
    power_off_soon,
    "
    say \"afloat\\n\"
    power_off
"
);

/// `coracle` with these arguments, which is not read.
fn command(harbour: &Harbour, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command
        .args(arguments)
        .env("XDG_RUNTIME_DIR", harbour.guests().parent().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn path(kernel: &Kernel) -> &str {
    kernel.path().to_str().unwrap()
}

/// The processes that have `word` among their arguments.
pub fn processes_with(word: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let arguments = entries.filter_map(|entry| {
        let bytes = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    });
    arguments.filter(|arguments| arguments.contains(word)).collect()
}

/// Starts the guest `web`.
fn start(harbour: &Harbour, kernel: &Kernel) {
    let started = harbour.run(kernel, &["-d", "--name", "web"]).end();
    assert_eq!(started.with_code(0).stdout, b"web\n");
}

/// Of so many calls one is tried, where not all are.
const ONE_OF: usize = 9;

/// Kills what `arguments` start, before one of `one_of` calls after the other, and checks what others find then. Where another command
/// than `run` is killed, there is a guest `web` that runs.
fn is_killed_before_calls(one_of: usize, kernel: &Kernel, arguments: &[&str]) {
    let starts = arguments[0] == "run";
    let words = match starts {
        true => [arguments, &["--kernel", path(kernel)]].concat(),
        false => arguments.to_vec(),
    };
    let traced = |at| {
        let harbour = Harbour::new();
        if !starts {
            start(&harbour, kernel);
        }
        let calls = run_until(command(&harbour, &words), at);
        (harbour, calls)
    };
    let (_, calls) = traced(None);
    println!("{arguments:?}: {calls} points");
    for at in (0..calls).step_by(one_of) {
        let (harbour, _) = traced(Some(at));
        let point = format!("{arguments:?}, killed before call {at}");
        wait_until_what_is_listed_is_there(&harbour, kernel, &point);
        // What runs can be removed, and so can what is left. Then the name is free.
        for name in harbour.say(&["ps", "-aq"]).lines() {
            harbour.say(&["rm", "-f", name]);
        }
        assert_eq!(harbour.entries(), [""; 0], "{point}");
        start(&harbour, kernel);
        harbour.say(&["rm", "-f", "web"]);
        assert!(processes_with(path(kernel)).is_empty(), "{point}");
    }
}

/// Waits until there is a process exactly if a guest is listed as one that runs, and nothing is in the directory of guests that is
/// not listed. A guest's process outlives the command that has started it, and may still start or end.
fn wait_until_what_is_listed_is_there(harbour: &Harbour, kernel: &Kernel, point: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let running = harbour.say(&["ps", "-q"]);
        let listed = harbour.say(&["ps", "-aq"]);
        let processes = processes_with(path(kernel));
        let entries = harbour.entries();
        if running.lines().count() == processes.len() && entries == listed.lines().collect::<Vec<_>>() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{point}: {running:?} run, {listed:?} are listed; there are {processes:?} and {entries:?}"
        );
    }
}

fn is_started_in_the_background(one_of: usize) {
    is_killed_before_calls(one_of, &float().linux64(), &["run", "-d", "--name", "web"]);
}

fn runs_in_the_foreground(one_of: usize) {
    is_killed_before_calls(one_of, &power_off_soon().linux64(), &["run", "--name", "web"]);
}

fn is_asked_to_power_off(one_of: usize) {
    is_killed_before_calls(
        one_of,
        &power_off_when_the_button_is_pressed().linux64(),
        &["stop", "web"],
    );
}

fn has_other_commands(one_of: usize) {
    let kernel = float().linux64();
    for arguments in [
        ["rm", "-f", "web"].as_slice(),
        &["stop", "-t", "0", "web"],
        &["kill", "web"],
        &["pause", "web"],
        &["rename", "web", "other"],
    ] {
        is_killed_before_calls(one_of, &kernel, arguments);
    }
}

#[test]
fn a_start_in_the_background_leaves_a_guest_that_runs_or_none() {
    is_started_in_the_background(ONE_OF);
}

#[test]
fn a_run_in_the_foreground_leaves_a_guest_that_has_ended_or_none() {
    runs_in_the_foreground(ONE_OF);
}

#[test]
fn a_stop_leaves_a_guest_that_runs_or_has_ended() {
    is_asked_to_power_off(ONE_OF);
}

#[test]
fn other_commands_leave_a_guest_that_runs_or_has_ended_or_nothing() {
    has_other_commands(ONE_OF);
}

#[test]
#[ignore = "takes a minute: make torture"]
fn no_command_leaves_anything_else_wherever_it_is_killed() {
    is_started_in_the_background(1);
    runs_in_the_foreground(1);
    is_asked_to_power_off(1);
    has_other_commands(1);
}
