use std::fs;
use std::io::Write;

use crate::support::screen::{is_stopped, run_on_a_terminal, shown_in_all, shown_up_to, wait_until};
use crate::support::terminal::Terminal;
use crate::support::{Coracle, Running, need_kvm};

guest!(
    draw_and_echo,
    "
    say \"\\033[?1049h\\033[?25l\\033[1mchanged\"
    request_to_send
    mov ebx, 1
    echo_input
    power_off
"
);

const UNDONE: &str = "\x1b[?25h\x1b[?1049l\x1b[m";

/// Sends a signal to the process of a guest that has changed the terminal, and looks what is left of that.
#[track_caller]
fn dies_by(signal: i32, words: &[&str]) {
    let (running, terminal, before) = run_on_a_terminal(&draw_and_echo());
    shown_up_to(&terminal, "changed");
    wait_until("the terminal is raw", || terminal.modes().is_raw());
    running.signal_machine(signal);
    let ended = running.end_unread().saying(words);
    assert_eq!(ended.signal, Some(signal), "{}", ended.describe());
    assert_eq!(terminal.modes(), before);
    let shown = shown_in_all(&terminal);
    assert!(shown.ends_with(UNDONE), "{shown:?}");
}

#[test]
fn a_guests_process_that_is_killed_leaves_the_terminal_as_it_was_and_is_told_of() {
    dies_by(libc::SIGKILL, &["was killed (SIGKILL)", "dmesg"]);
}

#[test]
fn a_guests_process_that_crashes_leaves_the_terminal_as_it_was_and_is_told_of() {
    // The standard library's handler lets a SIGSEGV pass that is sent and not caused.
    for signal in [libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
        dies_by(signal, &[&format!("signal {signal}"), "crashed", "report"]);
    }
}

/// As root pulls the plug of everything that the shell has started.
#[test]
fn a_guest_whose_parent_is_killed_ends_and_gives_the_terminal_back() {
    let (running, terminal, before) = run_on_a_terminal(&draw_and_echo());
    shown_up_to(&terminal, "changed");
    wait_until("the terminal is raw", || terminal.modes().is_raw());
    let machine = running.machine();
    assert_ne!(machine, running.id());
    running.signal(libc::SIGKILL);
    wait_until("the guest's process has ended", || !runs(machine));
    assert_eq!(terminal.modes(), before);
    // At an end in order the terminal is asked for its identity.
    assert_eq!(shown_in_all(&terminal), format!("{UNDONE}\x1b[c"));
    running.end_unread().saying(&["SIGTERM"]);
}

/// A process that has ended may still be there until its parent, whichever that is now, has taken note.
fn runs(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

#[test]
fn a_parent_that_blocks_all_signals_and_ignores_its_children_changes_nothing() {
    need_kvm();
    for kill in [false, true] {
        let terminal = Terminal::open(24, 80);
        let before = terminal.modes();
        let running = Coracle::run(&draw_and_echo().linux64())
            .with_all_signals_blocked()
            .with_ignored(libc::SIGCHLD)
            .on_terminal(&terminal)
            .start();
        shown_up_to(&terminal, "changed");
        wait_until("the terminal is raw", || terminal.modes().is_raw());
        if kill {
            running.signal_machine(libc::SIGKILL);
            assert_eq!(running.end_unread().signal, Some(libc::SIGKILL));
        } else {
            (&terminal.person).write_all(b"x").unwrap();
            running.end_unread().with_code(0).in_silence();
        }
        assert_eq!(terminal.modes(), before);
    }
}

#[test]
fn the_job_stops_when_the_guests_process_is_stopped_and_goes_on_when_it_is_told_to() {
    let (running, terminal, before) = run_on_a_terminal(&draw_and_echo());
    shown_up_to(&terminal, "changed");
    wait_until("the terminal is raw", || terminal.modes().is_raw());
    running.signal_machine(libc::SIGSTOP);
    wait_until("both have stopped", || {
        is_stopped(running.machine()) && is_stopped(running.id())
    });
    running.signal(libc::SIGCONT);
    (&terminal.person).write_all(b"x").unwrap();
    running.end_unread().with_code(0).in_silence();
    assert_eq!(terminal.modes(), before);
}

#[test]
fn a_signal_to_the_parent_ends_the_guest_in_order() {
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGALRM] {
        let (running, terminal, before) = run_on_a_terminal(&draw_and_echo());
        shown_up_to(&terminal, "changed");
        wait_until("the terminal is raw", || terminal.modes().is_raw());
        running.signal(signal);
        running.end_unread().with_code(128 + signal as u8);
        assert_eq!(terminal.modes(), before);
    }
}

/// A line of /proc/PID/status.
fn status(running: &Running, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

#[test]
fn the_parent_is_confined_and_has_no_file_of_the_run_open() {
    need_kvm();
    let terminal = Terminal::open(24, 80);
    let kernel = draw_and_echo().linux64();
    let folder = tempfile::tempdir().unwrap();
    let timings = folder.path().join("timings.json").display().to_string();
    let running = Coracle::run(&kernel)
        .args(&[&format!("--timings={timings}")])
        .on_terminal(&terminal)
        .start();
    shown_up_to(&terminal, "changed");
    assert_ne!(running.machine(), running.id());
    wait_until("it has its filter", || status(&running, "Seccomp") == "2");
    assert_eq!(status(&running, "NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(&running, set), "0000000000000000", "{set}");
    }
    let has_open = |id: u32, what: &str| {
        let files = fs::read_dir(format!("/proc/{id}/fd")).unwrap();
        let mut paths = files.map(|file| fs::read_link(file.unwrap().path()).unwrap_or_default());
        paths.any(|path| path.to_string_lossy().contains(what))
    };
    let kernel = kernel.path().to_string_lossy().into_owned();
    for what in ["/dev/kvm", &kernel, &timings] {
        assert!(has_open(running.machine(), what), "{what}");
        assert!(!has_open(running.id(), what), "{what}");
    }
    running.signal(libc::SIGTERM);
    running.end_unread().with_code(143);
}

#[test]
fn without_a_terminal_there_is_no_parent() {
    need_kvm();
    let mut running = Coracle::run(&draw_and_echo().linux64()).keyboard().start();
    running.wait_for("changed");
    assert_eq!(running.machine(), running.id());
    running.type_in(b"x");
    running.end().with_code(0);
}
