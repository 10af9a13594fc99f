//! A person at a terminal: what they type reaches the guest, and the terminal's modes are restored afterwards.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use libc::{SIGCONT, SIGHUP, SIGTERM, SIGTSTP};

use crate::run::{Coracle, Run};

crate::group!["terminals":
    a_person_gets_a_shell_of_the_terminals_size_and_leaves_it,
    ctrl_c_interrupts_a_program_in_the_guest,
    ctrl_a_x_quits_with_112_and_restores_the_terminal,
    ctrl_a_h_helps_on_stderr,
    ctrl_a_goes_to_the_guest_when_there_is_no_escape_key,
    sigterm_restores_the_terminal,
    sighup_restores_the_terminal,
    a_panic_of_the_guest_restores_the_terminal,
    an_error_restores_the_terminal,
    stopping_restores_the_terminal_and_continuing_makes_it_raw_again,
];

const PROMPT: &str = "coracle guest:";

/// A run on a terminal, with the guest's shell waiting for the person.
fn shell(arguments: &[&str]) -> Run {
    let mut run = Coracle::run().args(arguments).on_terminal().start();
    run.wait_for(PROMPT);
    assert!(run.terminal_modes().is_raw());
    assert!(!run.modes_before().is_raw());
    run
}

fn a_person_gets_a_shell_of_the_terminals_size_and_leaves_it() {
    let mut run = shell(&[]);
    run.type_in("echo six times seven is $((6 * 7)), $(stty size), $(tty)\r");
    run.wait_for("six times seven is 42, 30 100, /dev/ttyS0");
    run.wait_for(PROMPT);
    run.type_in("exit\r");
    run.end().assert_powered_off().assert_terminal_restored();
}

fn ctrl_c_interrupts_a_program_in_the_guest() {
    let mut run = shell(&[]);
    // The backslash distinguishes the printed text from the echo of the typed text. When the text is printed, its program
    // is in the foreground already.
    run.type_in("sh -c 'echo is sl\\eeping; exec sleep 1000'\r");
    run.wait_for("is sleeping");
    run.type_in("\x03");
    run.wait_for(PROMPT);
    run.type_in("echo ended with $?; poweroff\r");
    run.wait_for("ended with 130");
    run.end().assert_powered_off().assert_terminal_restored();
}

fn ctrl_a_x_quits_with_112_and_restores_the_terminal() {
    let mut run = shell(&[]);
    run.type_in("\x01x");
    run.end()
        .assert_code(112)
        .assert_explains("ended by Ctrl-A x")
        .assert_terminal_restored();
}

fn ctrl_a_h_helps_on_stderr() {
    let mut run = shell(&[]);
    run.type_in("\x01h");
    run.wait_for_message("Ctrl-A x ");
    run.type_in("poweroff\r");
    let finished = run.end();
    finished.assert_code(0).assert_terminal_restored();
    assert!(
        !finished.console().contains("send one Ctrl-A to the guest"),
        "help on stdout\n{finished}"
    );
}

fn ctrl_a_goes_to_the_guest_when_there_is_no_escape_key() {
    let mut run = shell(&["--no-escape"]);
    // The shell's line editor takes Ctrl-A to the line's beginning.
    run.type_in("x came first\x01echo the \r");
    run.wait_for("\nthe x came first");
    run.type_in("poweroff\r");
    run.end().assert_powered_off();
}

fn sigterm_restores_the_terminal() {
    let run = shell(&[]);
    run.signal(SIGTERM);
    run.end().assert_code(143).assert_terminal_restored();
}

fn sighup_restores_the_terminal() {
    let run = shell(&[]);
    run.signal(SIGHUP);
    run.end().assert_code(129).assert_terminal_restored();
}

fn a_panic_of_the_guest_restores_the_terminal() {
    let mut run = shell(&[]);
    run.type_in("echo c >/proc/sysrq-trigger\r");
    run.end().assert_code(102).assert_terminal_restored();
}

fn an_error_restores_the_terminal() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = Coracle::run().on_terminal().stdout(full).start();
    run.end().assert_code(125).assert_terminal_restored();
}

fn stopping_restores_the_terminal_and_continuing_makes_it_raw_again() {
    let mut run = shell(&[]);
    run.signal(SIGTSTP);
    wait_until("it stops", || is_stopped(run.id()));
    assert_eq!(run.terminal_modes(), run.modes_before());
    run.signal(SIGCONT);
    wait_until("the terminal is raw again", || run.terminal_modes().is_raw());
    run.type_in("echo back $((1 + 1)); poweroff\r");
    run.wait_for("back 2");
    run.end().assert_powered_off().assert_terminal_restored();
}

/// The state of a process is the field after its name in parentheses (proc(5)).
fn is_stopped(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    stat.rsplit_once(')')
        .is_some_and(|(_, fields)| fields.trim_start().starts_with('T'))
}

/// Polls until the condition holds, for conditions of which no event tells.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
