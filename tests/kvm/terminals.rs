use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use crate::support::pipe::{pipe, wait_until_full};
use crate::support::screen::{
    has_output, is_stopped, run_on_a_terminal, shown_in_all, shown_up_to, unread, wait_until,
};
use crate::support::terminal::Terminal;
use crate::support::{Coracle, need_kvm};

guest!(
    ask_and_spin,
    "
    say \"\\033[c\\033[6n\\033]11;?\\007asked\"
2:
    jmp 2b
"
);

#[test]
fn a_terminals_answer_to_the_guest_is_not_left_to_the_shell() {
    let (running, terminal, before) = run_on_a_terminal(&ask_and_spin());
    shown_up_to(&terminal, "asked");
    // The answer is there before Coracle can read it, and so is the signal, which it obeys first.
    running.signal_machine(libc::SIGSTOP);
    wait_until("it stops", || is_stopped(running.id()));
    let answer = b"\x1b[?62;22c\x1b[1;1R\x1b]11;rgb:0000/0000/0000\x07";
    (&terminal.person).write_all(answer).unwrap();
    wait_until("the answer is there", || unread(&terminal) == answer.len() as i32);
    running.signal(libc::SIGTERM);
    running.signal(libc::SIGCONT);
    running.end_unread().with_code(143);
    assert_eq!(unread(&terminal), 0);
    assert_eq!(terminal.modes(), before);
}

guest!(
    ask_for_identity_and_power_off,
    "
    say \"\\033[6n\\033[casked\"
    power_off
"
);

#[test]
fn answers_that_come_after_the_guests_end_are_waited_for_and_not_left_to_the_shell() {
    let (running, terminal, before) = run_on_a_terminal(&ask_for_identity_and_power_off());
    // After the guest's end Coracle asks, too.
    shown_up_to(&terminal, "asked");
    assert_eq!(shown_up_to(&terminal, "\x1b[c"), "\x1b[c");
    let answers = b"\x1b[1;1R\x1b[?62;22c\x1b[?62;22c";
    (&terminal.person).write_all(answers).unwrap();
    running.end_unread().with_code(0).in_silence();
    assert_eq!(unread(&terminal), 0);
    assert_eq!(terminal.modes(), before);
    assert_eq!(shown_in_all(&terminal), "", "the answers were not echoed");
}

#[test]
fn an_abort_restores_the_terminal_and_is_the_abort_that_it_was() {
    let (running, terminal, before) = run_on_a_terminal(&ask_and_spin());
    shown_up_to(&terminal, "asked");
    wait_until("it is raw", || terminal.modes().is_raw());
    running.signal(libc::SIGABRT);
    let ended = running.end_unread();
    assert_eq!(ended.signal, Some(libc::SIGABRT), "{}", ended.describe());
    assert_eq!(terminal.modes(), before);
}

guest!(
    change_the_terminal,
    "
    say \"\\033[?1049h\\033[?1003;1006h\\033[?2004h\\033[?25l\\033[2;9r\\033(0\\033[1m\"
    power_off
"
);

#[test]
fn what_a_guest_switched_on_in_the_terminal_is_switched_off_at_its_end() {
    let (running, terminal, _) = run_on_a_terminal(&change_the_terminal());
    running.end_unread().with_code(0).in_silence();
    let shown = shown_in_all(&terminal);
    let (_, after) = shown.split_once("\x1b[1m").unwrap();
    // The last is the request for the identity, since a terminal may answer when a mode is switched on.
    assert_eq!(
        after,
        "\x1b[?25h\x1b[?1003l\x1b[?1006l\x1b[?1049l\x1b[?2004l\x1b7\x1b[r\x1b8\x0f\x1b(B\x1b)B\x1b[m\x1b[c"
    );
}

guest!(
    change_the_terminal_and_echo,
    "
    say \"\\033[?1049h\\033[?1003;1006h\\033[?25l\\033[1mchanged\"
    request_to_send
    mov ebx, 1
    echo_input
    power_off
"
);

#[test]
fn while_the_run_is_suspended_the_terminal_is_as_the_person_had_it() {
    let (running, terminal, before) = run_on_a_terminal(&change_the_terminal_and_echo());
    shown_up_to(&terminal, "changed");
    wait_until("the terminal is raw", || terminal.modes().is_raw());
    running.signal(libc::SIGTSTP);
    wait_until("it stops", || is_stopped(running.id()));
    const UNDONE: &str = "\x1b[?25h\x1b[?1003l\x1b[?1006l\x1b[?1049l\x1b[m";
    assert_eq!(shown_in_all(&terminal), UNDONE);
    assert_eq!(terminal.modes(), before);
    running.signal(libc::SIGCONT);
    const REDONE: &str = "\x1b[?25l\x1b[?1003h\x1b[?1006h\x1b[?1049h";
    assert_eq!(shown_up_to(&terminal, "\x1b[?1049h"), REDONE);
    wait_until("the terminal is raw again", || terminal.modes().is_raw());
    (&terminal.person).write_all(b"x").unwrap();
    running.end_unread().with_code(0).in_silence();
    assert_eq!(shown_in_all(&terminal), format!("x{UNDONE}\x1b[c"));
    assert_eq!(terminal.modes(), before);
}

#[test]
fn what_is_undone_already_is_not_undone_again_when_a_suspended_run_is_killed() {
    let (running, terminal, before) = run_on_a_terminal(&change_the_terminal_and_echo());
    shown_up_to(&terminal, "changed");
    running.signal(libc::SIGTSTP);
    wait_until("it stops", || is_stopped(running.id()));
    // As a shell does it for a job that is stopped.
    running.signal(libc::SIGTERM);
    running.signal(libc::SIGCONT);
    running.end_unread().with_code(143);
    let shown = shown_in_all(&terminal);
    assert_eq!(shown.matches("\x1b[?1049l").count(), 1, "{shown:?}");
    assert_eq!(terminal.modes(), before);
}

#[test]
fn a_pipe_gets_nothing_that_the_guest_did_not_print() {
    need_kvm();
    let ended = Coracle::run(&change_the_terminal().linux64()).end().with_code(0);
    assert!(ended.stdout.ends_with(b"\x1b(0\x1b[1m"), "{}", ended.describe());
}

guest!(
    print_plainly,
    "
    say \"plain, \\033[1mbold\\033[0m, plain\"
    power_off
"
);

#[test]
fn a_terminal_that_a_guest_did_not_change_gets_nothing_that_it_did_not_print() {
    let (running, terminal, _) = run_on_a_terminal(&print_plainly());
    running.end_unread().with_code(0).in_silence();
    assert_eq!(shown_in_all(&terminal), "plain, \x1b[1mbold\x1b[0m, plain");
}

guest!(
    speak_and_echo,
    "
    say \"afloat\"
    request_to_send
    mov ebx, 1
    echo_input
    power_off
"
);

#[test]
fn in_the_background_the_terminal_is_left_alone_and_a_signal_is_obeyed() {
    need_kvm();
    let terminal = Terminal::open(24, 80);
    let before = terminal.modes();
    let (coracle, mut shell) = Coracle::run(&speak_and_echo().linux64())
        .on_terminal(&terminal)
        .into_job();
    let running = coracle.start();
    shown_up_to(&terminal, "afloat");
    assert_eq!(terminal.modes(), before);
    (&terminal.person).write_all(b"x\n").unwrap();
    shell.terminate_job();
    assert_eq!(shell.wait_for_job(), 143);
    assert_eq!(terminal.modes(), before);
    wait_until("the line is there for the shell", || unread(&terminal) == 2);
    drop(shell);
    running.end_unread().saying(&["SIGTERM"]);
}

#[test]
fn a_job_that_comes_to_the_foreground_gets_the_terminal_raw_without_being_told() {
    need_kvm();
    let terminal = Terminal::open(24, 80);
    let before = terminal.modes();
    let (coracle, mut shell) = Coracle::run(&speak_and_echo().linux64())
        .on_terminal(&terminal)
        .into_job();
    let running = coracle.start();
    shown_up_to(&terminal, "afloat");
    shell.give_terminal_to_job();
    wait_until("the terminal is raw", || terminal.modes().is_raw());
    (&terminal.person).write_all(b"x").unwrap();
    assert_eq!(shell.wait_for_job(), 0);
    assert_eq!(shown_in_all(&terminal), "x");
    assert_eq!(terminal.modes(), before);
    drop(shell);
    running.end_unread().in_silence();
}

guest!(
    print_much_and_power_off,
    "
    send 0x100000, 4096
    send 0x100000, 4096
    send 0x100000, 4096
    power_off
"
);

#[test]
fn after_the_guests_end_what_is_typed_is_left_to_others_while_the_output_waits_for_its_reader() {
    need_kvm();
    let terminal = Terminal::open(24, 80);
    let before = terminal.modes();
    let (mut reader, writer) = pipe();
    let stdout = writer.try_clone().unwrap();
    let running = Coracle::run(&print_much_and_power_off().linux64())
        .on_terminal(&terminal)
        .stdout(stdout)
        .start();
    wait_until_full(&writer);
    drop(writer);
    wait_until("the terminal is given back", || terminal.modes() == before);
    // What was typed before is thrown away after that.
    running.wait_until_thread_is_in("coracle", libc::SYS_poll);
    // If Coracle read this, it would print help on stderr.
    (&terminal.person).write_all(b"\x01h\n").unwrap();
    wait_until("the line is there for its reader", || unread(&terminal) == 3);
    let mut printed = Vec::new();
    reader.read_to_end(&mut printed).unwrap();
    assert_eq!(printed.len(), 3 * 4096);
    running.end_unread().with_code(0).in_silence();
    assert_eq!(unread(&terminal), 3);
}

guest!(
    echo_and_reset,
    "
    request_to_send
    mov ebx, 1
    echo_input
    reset
"
);

#[test]
fn what_was_typed_ahead_is_kept_over_a_reboot() {
    need_kvm();
    let terminal = Terminal::open(24, 80);
    let running = Coracle::run(&echo_and_reset().linux64())
        .args(&["--on-reboot", "restart"])
        .on_terminal(&terminal)
        .start();
    wait_until("the terminal is raw", || terminal.modes().is_raw());
    // At each boot the serial port's 64 bytes go with the machine; what Coracle read ahead does not.
    let typed: Vec<u8> = (0..1000u32).map(|index| b'a' + (index % 26) as u8).collect();
    (&terminal.person).write_all(&typed).unwrap();
    let mut echoed = [0; 3];
    for byte in &mut echoed {
        wait_until("a byte comes back", || has_output(&terminal));
        (&terminal.person).read_exact(std::slice::from_mut(byte)).unwrap();
    }
    assert!(terminal.modes().is_raw(), "it is raw over all boots");
    running.signal(libc::SIGTERM);
    running.end_unread().with_code(143);
}

guest!(
    stand_by,
    "
    say \"afloat\"
2:
    sti
    hlt
    jmp 2b
"
);

/// A shell with job control, in a session of its own. Dropping it kills it, and the end of its session its jobs.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell whose terminal this is.
fn interactive_shell(terminal: &Terminal) -> Shell {
    let end = || terminal.program.try_clone().expect("a terminal can be shared");
    let mut command = Command::new("sh");
    command.arg("-i").env_remove("ENV");
    command.stdin(end()).stdout(end()).stderr(end());
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            match libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    Shell(command.spawn().expect("there is a shell"))
}

#[test]
fn a_run_under_timeout_ends_at_a_shell_and_in_a_script() {
    need_kvm();
    let terminal = Terminal::open(24, 80);
    let before = terminal.modes();
    let kernel = stand_by().linux64();
    let run = format!(
        "timeout 3 {} run --kernel {}",
        env!("CARGO_BIN_EXE_coracle"),
        kernel.path().display()
    );
    let mut shell = interactive_shell(&terminal);
    // With job control timeout has the terminal. In a script it goes to the background, with what it runs.
    for command in [run.clone(), format!("sh -c '{run}; exit $?'")] {
        writeln!(&terminal.person, "{command}; echo ended with $?").unwrap();
        // The code of timeout for a program that it has ended. Typed text has no number there.
        shown_up_to(&terminal, "ended with 124");
        assert_eq!(terminal.modes(), before, "{command}");
    }
    writeln!(&terminal.person, "echo $((40 + 2)) is read; exit").unwrap();
    shown_up_to(&terminal, "42 is read");
    assert!(shell.0.wait().unwrap().success());
}
