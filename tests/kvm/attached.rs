use std::fs;
use std::io::{Read, Write};

use crate::named::Harbour;
use crate::support::pipe::{pipe, wait_until_full};
use crate::support::screen::{shown_in_all, shown_up_to, wait_until};
use crate::support::terminal::Terminal;
use crate::support::{Kernel, Running};

guest!(
    echo_on_and_on,
    "
    say \"afloat\\n\"
    request_to_send
    xor ebx, ebx
    echo_input
"
);

guest!(
    echo_three_and_reset,
    "
    say \"afloat\\n\"
    request_to_send
    mov ebx, 3
    echo_input
    say \"sunk\\n\"
    reset
"
);

guest!(
    draw_ask_and_echo_on,
    "
    say \"\\033[?1049h\\033[?25l\\033[6n\\033[1mchanged\\n\"
    request_to_send
    xor ebx, ebx
    echo_input
"
);

guest!(
    print_pages_on_and_on,
    "
    say \"afloat\\n\"
2:
    send 0x200000, 4096
    jmp 2b
"
);

/// A guest in the background, called web.
fn in_the_background(kernel: &Kernel) -> Harbour {
    let harbour = Harbour::new();
    harbour.run(kernel, &["-d", "--name", "web"]).end().with_code(0);
    harbour
}

/// A terminal that is attached to it.
fn attach(harbour: &Harbour) -> (Running, Terminal) {
    let terminal = Terminal::open(24, 80);
    let attached = harbour.coracle(&["attach", "web"]).on_terminal(&terminal).start();
    (attached, terminal)
}

fn type_at(terminal: &Terminal, bytes: &[u8]) {
    (&terminal.person).write_all(bytes).unwrap();
}

#[test]
fn a_person_attaches_types_detaches_and_comes_back() {
    let harbour = in_the_background(&echo_on_and_on().linux64());
    let before = Terminal::open(24, 80).modes();
    let (attached, terminal) = attach(&harbour);
    assert_eq!(shown_up_to(&terminal, "afloat\r\n"), "afloat\r\n");
    wait_until("the terminal is raw", || terminal.modes().is_raw());
    type_at(&terminal, b"bo\x03at");
    assert_eq!(shown_up_to(&terminal, "at"), "bo\x03at");
    type_at(&terminal, b"\x01h\x01x\x01\x01\x01d");
    let ended = attached.end_unread().with_code(0);
    assert_eq!(terminal.modes(), before);
    let ended = ended.saying(&["Ctrl-A d ", "Ctrl-A x does not end", "coracle kill"]);
    assert!(
        ended.stderr.ends_with(
            "\ncoracle: detached from guest 'web', which runs on (coracle attach web returns to it)\n"
        ),
        "{}",
        ended.describe()
    );
    assert_eq!(harbour.say(&["ps", "-q"]), "web\n");

    let (again, terminal) = attach(&harbour);
    // What was typed before Ctrl-A d has reached the guest, too.
    shown_up_to(&terminal, "afloat\r\nbo\x03at\x01");
    type_at(&terminal, b"oar");
    assert_eq!(shown_up_to(&terminal, "oar"), "oar");
    harbour.say(&["kill", "web"]);
    again.end_unread().with_code(137).saying(&["was killed"]);
    assert_eq!(terminal.modes(), before);
}

#[test]
fn the_guests_end_ends_it_with_the_guests_exit_code_and_explanation_for_all_who_look_on() {
    let harbour = in_the_background(&echo_three_and_reset().linux64());
    let mut looking = harbour.coracle(&["attach", "web"]).start();
    looking.wait_for("afloat\n");
    let (attached, terminal) = attach(&harbour);
    shown_up_to(&terminal, "afloat\r\n");
    type_at(&terminal, b"abc");
    assert_eq!(shown_up_to(&terminal, "sunk\r\n"), "abcsunk\r\n");
    let explanation = harbour.coracle(&["wait", "web"]).end();
    assert_eq!(explanation.stdout, b"100\n");
    let reset = ["rebooted"];
    attached.end_unread().with_code(100).saying(&reset);
    // Its stdin had ended at once.
    let looked = looking.end().with_code(100).saying(&reset);
    assert_eq!(looked.stdout, b"afloat\nabcsunk\n");
    harbour.refuse(&["attach", "web"], &["guest 'web' does not run"]);
    harbour.refuse(&["attach", "nobody"], &["there is no guest 'nobody'"]);
}

#[test]
fn what_is_piped_in_is_typed_and_the_escape_key_is_none() {
    let harbour = in_the_background(&echo_three_and_reset().linux64());
    let ended = harbour.coracle(&["attach", "web"]).input(*b"\x01d!").end();
    assert_eq!(ended.stdout, b"afloat\n\x01d!sunk\n");
    ended.with_code(100);
}

#[test]
fn a_run_in_the_foreground_can_be_looked_at_and_does_not_detach() {
    let harbour = Harbour::new();
    let terminal = Terminal::open(24, 80);
    let run = harbour.run(&echo_on_and_on().linux64(), &["--name", "web"]);
    let run = run.on_terminal(&terminal).start();
    shown_up_to(&terminal, "afloat\r\n");
    let (attached, other) = attach(&harbour);
    shown_up_to(&other, "afloat\r\n");
    for (typing, typed) in [(&terminal, "a"), (&other, "b")] {
        type_at(typing, typed.as_bytes());
        assert_eq!(
            [&terminal, &other].map(|terminal| shown_up_to(terminal, typed)),
            [typed; 2]
        );
    }
    type_at(&terminal, b"\x01d\x01x");
    run.end_unread()
        .with_code(112)
        .saying(&["cannot detach", "start the guest with -d"]);
    attached.end_unread().with_code(112).saying(&["Ctrl-A x"]);
}

#[test]
fn signals_detach_and_give_the_terminal_back() {
    let harbour = in_the_background(&draw_ask_and_echo_on().linux64());
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        let before = Terminal::open(24, 80).modes();
        let (attached, terminal) = attach(&harbour);
        // The modes are those that the guest has left, and its question is not asked again.
        let shown = shown_up_to(&terminal, "changed\r\n");
        assert_eq!(shown, "\x1b[?1049h\x1b[?25l\x1b[1mchanged\r\n");
        wait_until("the terminal is raw", || terminal.modes().is_raw());
        attached.signal(signal);
        let ended = attached.end_unread().with_code(128 + signal as u8);
        ended.saying(&[&format!(
            "signal {signal} detached from guest 'web', which runs on"
        )]);
        assert_eq!(terminal.modes(), before);
        let undone = shown_in_all(&terminal);
        assert!(undone.contains("\x1b[?25h\x1b[?1049l\x1b[m"), "{undone:?}");
    }
    assert_eq!(harbour.say(&["ps", "-q"]), "web\n");
}

#[test]
fn a_client_that_is_killed_leaves_the_terminal_as_it_was_and_the_guest_running() {
    let harbour = in_the_background(&draw_ask_and_echo_on().linux64());
    for kill_the_parent in [false, true] {
        let before = Terminal::open(24, 80).modes();
        let (attached, terminal) = attach(&harbour);
        shown_up_to(&terminal, "changed\r\n");
        wait_until("the terminal is raw", || terminal.modes().is_raw());
        match kill_the_parent {
            true => attached.signal(libc::SIGKILL),
            false => attached.signal_machine(libc::SIGKILL),
        }
        let ended = attached.end_unread();
        assert_eq!(ended.signal, Some(libc::SIGKILL), "{}", ended.describe());
        if !kill_the_parent {
            ended.saying(&["the process that shows the guest's console was killed"]);
        }
        wait_until("the terminal is as it was", || terminal.modes() == before);
    }
    assert_eq!(harbour.say(&["ps", "-q"]), "web\n");
    let (attached, terminal) = attach(&harbour);
    shown_up_to(&terminal, "changed\r\n");
    type_at(&terminal, b"z");
    shown_up_to(&terminal, "z");
    type_at(&terminal, b"\x01d");
    attached.end_unread().with_code(0);
}

#[test]
fn a_client_that_does_not_read_stops_nobody_and_hears_what_it_has_missed() {
    let harbour = in_the_background(&print_pages_on_and_on().linux64());
    let (mut reader, writer) = pipe();
    let full = writer.try_clone().unwrap();
    let stalled = harbour.coracle(&["attach", "web"]).stdout(writer).start();
    wait_until_full(&full);
    drop(full);
    // More than the past, the pipe and the socket hold.
    let log = harbour.guests().join("web/console.log");
    wait_until("the guest has printed much", || {
        fs::metadata(&log).unwrap().len() > 1 << 20
    });
    // It prints zeroes.
    let (mut shown, mut part) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&shown).contains("bytes of the console's output are missing here]") {
        let count = reader.read(&mut part).unwrap();
        assert_ne!(count, 0, "it has ended without a word about that");
        shown.extend(part[..count].iter().filter(|byte| **byte != 0));
    }
    drop(reader);
    stalled.end_unread().with_code(141).in_silence();
}

#[test]
fn output_that_nobody_reads_any_more_ends_the_client_alone() {
    let harbour = in_the_background(&print_pages_on_and_on().linux64());
    let (reader, writer) = pipe();
    let attached = harbour.coracle(&["attach", "web"]).stdout(writer).start();
    drop(reader);
    attached.end_unread().with_code(141).in_silence();
    assert_eq!(harbour.say(&["ps", "-q"]), "web\n");
}

#[test]
fn keys_pause_the_guest_and_ask_it_to_power_off() {
    let harbour = in_the_background(&echo_on_and_on().linux64());
    let terminal = Terminal::open(24, 80);
    let attached = harbour.coracle(&["attach", "web"]).on_terminal(&terminal);
    let attached = attached.stderr(terminal.program.try_clone().unwrap()).start();
    shown_up_to(&terminal, "afloat\r\n");
    keys_work(&terminal);
    type_at(&terminal, b"\x01s");
    shown_up_to(&terminal, "the guest was asked to power off");
    assert_eq!(harbour.say(&["ps", "-q", "-f", "status=running"]), "web\n");
    type_at(&terminal, b"\x01p");
    shown_up_to(&terminal, "stands still");
    assert_eq!(harbour.say(&["ps", "-q", "-f", "status=paused"]), "web\n");
    harbour.say(&["unpause", "web"]);
    type_at(&terminal, b"z\x01d");
    attached.end_unread().with_code(0);
}

#[test]
fn keys_of_a_run_pause_the_guest_whatever_its_process_may_not_do() {
    for name in [&["--name", "web"][..], &[]] {
        let harbour = Harbour::new();
        let terminal = Terminal::open(24, 80);
        let run = harbour
            .run(&echo_on_and_on().linux64(), name)
            .on_terminal(&terminal);
        let run = run.stderr(terminal.program.try_clone().unwrap()).start();
        shown_up_to(&terminal, "afloat\r\n");
        keys_work(&terminal);
        type_at(&terminal, b"\x01x");
        run.end_unread().with_code(112);
    }
}

/// What the keys answer is shown on this terminal, too.
fn keys_work(terminal: &Terminal) {
    for (key, answer) in [
        (b"\x01p", "the guest stands still"),
        (b"\x01p", "the guest goes on"),
    ] {
        type_at(terminal, key);
        shown_up_to(terminal, answer);
        shown_up_to(terminal, "\n");
    }
    type_at(terminal, b"q");
    shown_up_to(terminal, "q");
}

#[test]
fn what_is_printed_is_recorded_until_the_key_is_pressed_again() {
    let harbour = in_the_background(&echo_on_and_on().linux64());
    let directory = tempfile::tempdir().unwrap();
    let terminal = Terminal::open(24, 80);
    let attached = harbour.coracle(&["attach", "web"]).on_terminal(&terminal);
    let attached = attached.stderr(terminal.program.try_clone().unwrap());
    let attached = attached.in_directory(directory.path()).start();
    shown_up_to(&terminal, "afloat\r\n");
    for number in [1, 2] {
        let name = format!("web-{number}.cast");
        type_at(&terminal, b"\x01r");
        shown_up_to(&terminal, &format!("recorded in {name} (Ctrl-A r ends that)"));
        type_at(&terminal, b"ab\xe2\x9c\x93");
        shown_up_to(&terminal, "ab\u{2713}");
        type_at(&terminal, b"\x01r");
        shown_up_to(&terminal, &format!("the recording is in {name}"));
        let cast = fs::read_to_string(directory.path().join(name)).unwrap();
        let mut lines = cast
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let head = lines.next().unwrap();
        assert_eq!(
            (&head["version"], &head["width"], &head["height"]),
            (&2.into(), &80.into(), &24.into())
        );
        let text: String = lines.map(|line| line[2].as_str().unwrap().to_owned()).collect();
        assert_eq!(text, "ab\u{2713}");
    }
    type_at(&terminal, b"\x01d");
    attached.end_unread().with_code(0);
}

#[test]
fn a_pager_shows_what_was_printed_and_gives_the_terminal_back() {
    let harbour = in_the_background(&echo_on_and_on().linux64());
    let terminal = Terminal::open(24, 80);
    let before = terminal.modes();
    // It reads a line of the terminal, as the person's modes have it, and leaves other modes.
    let pager = "cat; echo looking; head -n 1 <&1; stty raw <&1";
    let attached = harbour.coracle(&["attach", "web"]).variable("PAGER", pager);
    let attached = attached.on_terminal(&terminal).start();
    shown_up_to(&terminal, "afloat\r\n");
    wait_until("the terminal is raw", || terminal.modes().is_raw());
    type_at(&terminal, b"\x01l");
    shown_up_to(&terminal, "afloat\r\nlooking\r\n");
    assert_eq!(terminal.modes(), before);
    type_at(&terminal, b"enough\n");
    shown_up_to(&terminal, "enough\r\nenough\r\n");
    wait_until("the terminal is raw again", || terminal.modes().is_raw());
    // What was typed for the pager is not for the guest.
    type_at(&terminal, b"z");
    assert_eq!(shown_up_to(&terminal, "z"), "z");
    type_at(&terminal, b"\x01l");
    shown_up_to(&terminal, "looking\r\n");
    attached.signal(libc::SIGTERM);
    attached.end_unread().with_code(143);
    assert_eq!(terminal.modes(), before);
}
