//! `coracle exec`: programs in a guest that runs, used like programs of the host.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libc::{SIGINT, SIGTERM};

use crate::harbour::Harbour;
use crate::images::noise;
use crate::place;
use crate::run::{Coracle, Finished};
use crate::terminal::Terminal;

crate::group!["exec":
    its_streams_arrive_apart_and_its_status_is_coracles,
    what_cannot_run_is_told_apart,
    environment_directory_and_user_are_as_asked_for,
    every_byte_of_stdin_arrives_and_nothing_of_it_without_i,
    a_command_that_leaves_others_with_its_streams_ends_at_once_and_they_go_on,
    a_stdin_that_never_ends_keeps_no_command_from_its_end,
    a_client_that_is_killed_ends_its_command_and_nothing_else,
    signals_are_the_commands,
    a_terminal_has_a_size_and_is_told_of_another_one,
    a_guest_that_powers_off_under_a_command_is_told_and_gives_the_terminal_back,
    a_guest_that_is_killed_under_a_command_is_told,
    a_guest_that_cannot_run_commands_is_an_error_that_says_what_to_do,
    a_command_runs_beside_another_init,
    an_agent_that_stands_still_is_given_up_and_runs_nothing_later,
    an_agent_that_is_dead_or_another_program_is_told_and_stop_goes_on_without_it,
    a_terminal_that_is_resized_a_hundred_times_has_its_last_size_and_loses_nothing,
    a_command_that_ignores_that_its_terminal_is_closed_is_ended,
];

/// `coracle exec OPTIONS web WORDS`.
pub fn exec(harbour: &Harbour, options: &[&str], words: &[&str]) -> Coracle {
    harbour.coracle(&["exec"]).args(options).args(["web"]).args(words)
}

pub fn shell(harbour: &Harbour, options: &[&str], script: &str) -> Coracle {
    exec(harbour, options, &["sh", "-c", script])
}

/// What a script in the guest prints.
#[track_caller]
pub fn say(harbour: &Harbour, script: &str) -> String {
    let finished = shell(harbour, &[], script).end();
    finished.assert_powered_off();
    finished.console()
}

#[track_caller]
fn assert_wrote(finished: &Finished, stdout: &[u8], stderr: &str) {
    assert!(finished.stdout == stdout, "stdout\n{finished}");
    assert_eq!(finished.stderr, stderr, "stderr\n{finished}");
}

fn its_streams_arrive_apart_and_its_status_is_coracles() {
    // At once: init runs, but the agent may not listen yet.
    let harbour = Harbour::with_web(&[]);
    let finished = shell(&harbour, &[], "echo out; echo err >&2; exit 42").end();
    finished.assert_code(42);
    assert_wrote(&finished, b"out\n", "err\n");
    for (script, code) in [
        ("exit 0", 0),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        let finished = shell(&harbour, &[], script).end();
        finished.assert_code(code);
        assert_wrote(&finished, b"", "");
    }
    let words = ["printf", "%s|", "a b", "", "-v", "--help", "\u{e9}\n"];
    assert_wrote(
        &exec(&harbour, &[], &words).end(),
        "a b||-v|--help|\u{e9}\n|".as_bytes(),
        "",
    );
}

fn what_cannot_run_is_told_apart() {
    let harbour = Harbour::with_web(&[]);
    for (options, words, code, told) in [
        (
            &[][..],
            &["no-such-program"][..],
            127,
            "no program no-such-program in the guest",
        ),
        (&[], &["/proc"], 126, "cannot execute /proc"),
        (&["-w", "/no/such"], &["true"], 125, "cannot start in /no/such"),
        (&["-u", "nobody-here"], &["true"], 125, "no user nobody-here"),
    ] {
        exec(&harbour, options, words)
            .end()
            .assert_code(code)
            .assert_explains(told);
    }
}

fn environment_directory_and_user_are_as_asked_for() {
    let harbour = Harbour::with_web(&[]);
    let file = harbour.path().join("variables");
    fs::write(&file, "# a comment\nB=from a file\n").unwrap();
    let file = file.to_str().unwrap();
    let options = ["-e", "A=a b", "--env-file", file, "-w", "/tmp", "-u", "1000:100"];
    let script = "echo \"$A|$B|$HOME|$(pwd)|$(id -u):$(id -g)\"";
    let finished = shell(&harbour, &options, script).end();
    assert_wrote(&finished, b"a b|from a file|/|/tmp|1000:100\n", "");
}

fn every_byte_of_stdin_arrives_and_nothing_of_it_without_i() {
    let harbour = Harbour::with_web(&[]);
    let mut bytes: Vec<u8> = (0..=u8::MAX).collect();
    bytes.extend(noise(13, 1 << 19));
    let mut run = exec(&harbour, &["-i"], &["cat"]).with_input().start();
    let typing = run.paste(bytes.clone());
    drop(typing.join().unwrap());
    let finished = run.end();
    finished.assert_code(0);
    assert_wrote(&finished, &bytes, "");
    // Without -i it is at its end from the start, whatever is there.
    let mut run = exec(&harbour, &[], &["wc", "-c"]).with_input().start();
    run.type_in("not read\n");
    let finished = run.end();
    finished.assert_code(0);
    assert_eq!(finished.console().trim(), "0");
}

fn a_command_that_leaves_others_with_its_streams_ends_at_once_and_they_go_on() {
    let harbour = Harbour::with_web(&[]);
    let finished = shell(
        &harbour,
        &[],
        "sleep 1000 & echo $! >/tmp/left; echo started; exit 3",
    )
    .end();
    finished.assert_code(3);
    assert_wrote(&finished, b"started\n", "");
    assert_eq!(
        say(&harbour, "kill -0 $(cat /tmp/left) && echo it runs"),
        "it runs\n"
    );
}

fn a_stdin_that_never_ends_keeps_no_command_from_its_end() {
    let harbour = Harbour::with_web(&[]);
    // The pipe stays open, and empty.
    let run = exec(&harbour, &["-i"], &["true"]).with_input().start();
    run.end().assert_code(0);
    let mut run = shell(&harbour, &["-i"], "read line; echo $line")
        .with_input()
        .start();
    run.type_in("a line\nand more");
    let finished = run.end();
    finished.assert_code(0);
    assert_wrote(&finished, b"a line\n", "");
}

fn a_client_that_is_killed_ends_its_command_and_nothing_else() {
    let harbour = Harbour::with_web(&[]);
    let other = shell(&harbour, &[], "echo $$ >/tmp/other; echo ready; exec sleep 1000");
    let mut other = other.start();
    other.wait_for("ready");
    let mut run = shell(
        &harbour,
        &[],
        "sleep 1000 & echo $! $$ >/tmp/killed; echo ready; wait",
    )
    .start();
    run.wait_for("ready");
    run.kill();
    // Its own group has gone as soon as the agent has noticed.
    let script = "for pid in $(cat /tmp/killed); do while kill -0 $pid 2>/dev/null; do sleep 0.01; done; done; \
        kill -0 $(cat /tmp/other) && echo the other one runs";
    assert_eq!(say(&harbour, script), "the other one runs\n");
    other.signal(SIGTERM);
    other.end().assert_code(143);
}

fn signals_are_the_commands() {
    let harbour = Harbour::with_web(&[]);
    let script = "trap 'echo got it; exit 7' INT; echo ready; while :; do sleep 0.1; done";
    let mut run = shell(&harbour, &[], script).start();
    run.wait_for("ready");
    run.signal(SIGINT);
    run.end().assert_code(7).assert_prints("got it");
    let script = "trap 'echo got it' TERM; echo ready; while :; do sleep 0.1; done";
    let mut run = shell(&harbour, &[], script).start();
    run.wait_for("ready");
    run.signal(SIGTERM);
    run.wait_for("got it");
    run.signal(SIGTERM);
    run.end().assert_code(143);
}

fn a_terminal_has_a_size_and_is_told_of_another_one() {
    let harbour = Harbour::with_web(&[]);
    let mut run = exec(&harbour, &["-it"], &["sh"]).on_terminal().start();
    run.wait_for("# ");
    assert!(run.terminal_modes().is_raw());
    run.type_in("echo $((6 * 7)) $(stty size) $(tty)\r");
    run.wait_for("42 30 100 /dev/pts/");
    for rows in 31..34 {
        run.resize(rows, 77);
        run.signal(libc::SIGWINCH);
        // The size may arrive after the next line.
        run.type_in(&format!(
            "until [ \"$(stty size)\" = '{rows} 77' ]; do sleep 0.01; done; echo it is $(({rows}))\r"
        ));
        run.wait_for(&format!("it is {rows}\r"));
    }
    // Ctrl-C is the command's.
    run.type_in("sh -c 'echo is sl\\eeping; exec sleep 1000'\r");
    run.wait_for("is sleeping");
    run.type_in("\x03");
    run.type_in("exit 5\r");
    run.end().assert_code(5).assert_terminal_restored();
}

fn a_guest_that_powers_off_under_a_command_is_told_and_gives_the_terminal_back() {
    let harbour = Harbour::with_web(&[]);
    let script = "trap '' TERM HUP; stty -echo; echo re'ad'y; while :; do sleep 0.1; done";
    let mut run = shell(&harbour, &["-it"], script).on_terminal().start();
    run.wait_for("ready");
    shell(&harbour, &[], "kill -USR2 1").end();
    let finished = run.end();
    finished.assert_code(137).assert_terminal_restored();
    finished.assert_explains("coracle: guest 'web' has ended, and with it the command");
    assert_eq!(harbour.say(&["wait", "web"]), "0\n");
}

fn a_guest_that_is_killed_under_a_command_is_told() {
    let harbour = Harbour::with_web(&[]);
    let mut run = shell(&harbour, &[], "echo ready; exec sleep 1000").start();
    run.wait_for("ready");
    harbour.say(&["kill", "web"]);
    run.end()
        .assert_code(137)
        .assert_explains("coracle: guest 'web' has ended, and with it the command");
}

fn a_guest_that_cannot_run_commands_is_an_error_that_says_what_to_do() {
    let harbour = Harbour::with_web(&[]);
    let refused = |name: &str, words: &str| {
        harbour
            .coracle(&["exec", name, "true"])
            .end()
            .assert_code(125)
            .assert_explains(words);
    };
    refused("nobody", "there is no guest 'nobody' (coracle ps -a");
    harbour.say(&["pause", "web"]);
    refused("web", "the guest is paused: coracle unpause");
    harbour.say(&["unpause", "web"]);
    harbour.say(&["kill", "web"]);
    refused("web", "does not run (coracle ps -a");
    let kernel = crate::place::guest_images().join("vmlinux");
    let initrd = crate::place::guest_images().join("initrd");
    harbour.say(&[
        "run",
        "-d",
        "--name",
        "other",
        "--kernel",
        kernel.to_str().unwrap(),
        "--initrd",
        initrd.to_str().unwrap(),
        "--cmdline",
        "-- sleep 1000",
    ]);
    refused(
        "other",
        "none listens: the guest has not come so far, or has none",
    );
}

/// Programs and their descriptors, counted by a shell that starts none.
pub const COUNT: &str = "n=0; for p in /proc/[0-9]*; do [ -e $p/exe ] && n=$((n + 1)); done; set -- /proc/[0-9]*/fd/*; echo $n $#";

/// Waits until the guest has as many programs and descriptors as before: the agent's children have ended when their clients have,
/// or soon after.
pub fn wait_for_count(harbour: &Harbour, before: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let after = say(harbour, COUNT);
        if after == before {
            return;
        }
        assert!(Instant::now() < deadline, "{before}, and then {after}");
    }
}

fn a_command_runs_beside_another_init() {
    // PID 1 is a shell, which becomes its last command and knows nothing of the agent.
    let harbour = Harbour::with_web(&[
        "--cmdline",
        "init=/bin/busybox -- sh -c \"echo I am PID 1; sleep 1000\"",
    ]);
    assert_eq!(say(&harbour, "tr '\\0' ' ' </proc/1/cmdline"), "sleep 1000 ");
}

/// In a shell that the agent has started: the agent's process, the parent of the one that serves this command.
const AGENT: &str = "read _ _ _ agent _ </proc/$PPID/stat";

/// `coracle stop` gets no answer from the agent, and ends the guest.
#[track_caller]
fn assert_stop_ends(harbour: &Harbour) {
    harbour
        .coracle(&["stop", "-t", "2", "web"])
        .end()
        .assert_code(0)
        .assert_explains("guest 'web' was ended: ");
    assert_eq!(harbour.say(&["wait", "web"]), "143\n");
}

fn an_agent_that_stands_still_is_given_up_and_runs_nothing_later() {
    let harbour = Harbour::with_web(&[]);
    let stop = |goes_on_after: u32| {
        let script =
            format!("{AGENT}; setsid sh -c \"sleep {goes_on_after}; kill -CONT $agent\" & kill -STOP $agent");
        assert_eq!(say(&harbour, &script), "");
    };
    stop(40);
    let patient = |script| shell(&harbour, &[], script).patience(300);
    let given_up = patient("echo one >>/tmp/ran").start();
    let ended = shell(&harbour, &[], "echo two >>/tmp/ran").start();
    thread::sleep(Duration::from_secs(2));
    ended.signal(SIGTERM);
    ended.end().assert_code(143);
    given_up
        .end()
        .assert_code(125)
        .assert_explains("the agent in the guest does not answer, and the command did not run");
    // This one waits until the agent goes on, which has the calls of the others before it.
    patient("sleep 1; cat /tmp/ran 2>/dev/null || echo neither")
        .end()
        .assert_code(0)
        .assert_prints("neither\n");
    stop(1000);
    assert_stop_ends(&harbour);
}

fn an_agent_that_is_dead_or_another_program_is_told_and_stop_goes_on_without_it() {
    let harbour = Harbour::with_web(&[]);
    let sockets = fs::File::open(place::sockets()).unwrap();
    shell(&harbour, &["-i"], "cat >/tmp/sockets; chmod +x /tmp/sockets")
        .stdin(sockets)
        .end()
        .assert_code(0);
    let refused = |words: &str| {
        shell(&harbour, &[], "true")
            .end()
            .assert_code(125)
            .assert_explains(words);
    };
    // After a while another program listens in its place.
    let script =
        format!("{AGENT}; setsid sh -c 'sleep 8; exec /tmp/sockets babble 1023' >/dev/null & kill -9 $agent");
    assert_eq!(say(&harbour, &script), "");
    refused("coracle: the agent in the guest is gone, and with it the command");
    thread::sleep(Duration::from_secs(10));
    refused("coracle: the agent in the guest is not understood: it does not speak the agent's protocol");
    assert_stop_ends(&harbour);
}

fn a_terminal_that_is_resized_a_hundred_times_has_its_last_size_and_loses_nothing() {
    const SIZES: std::ops::Range<u16> = 30..130;
    let harbour = Harbour::with_web(&[]);
    let script = format!(
        "n=0; until [ \"$size\" = '{} 77' ]; do size=$(stty size); n=$((n + 1)); echo line $n $size; done; exit 5",
        SIZES.end - 1
    );
    let mut run = shell(&harbour, &["-it"], &script).on_terminal().start();
    for rows in SIZES {
        // Now and then the command has time to see one of them.
        if rows % 10 == 0 {
            run.wait_for("line ");
        }
        run.resize(rows, 77);
        run.signal(libc::SIGWINCH);
    }
    let finished = run.end();
    finished.assert_code(5).assert_terminal_restored();
    let mut rows_before = 0;
    for (number, line) in (1..).zip(finished.console().lines()) {
        let words: Vec<_> = line.split(' ').collect();
        let ["line", n, rows, "77" | "100"] = words[..] else {
            panic!("{line:?}\n{finished}")
        };
        assert_eq!(n, format!("{number}"), "{finished}");
        let rows: u16 = rows.parse().unwrap();
        assert!(rows >= rows_before, "an older size after a newer one\n{finished}");
        rows_before = rows;
    }
    assert_eq!(rows_before, SIZES.end - 1, "{finished}");
}

fn a_command_that_ignores_that_its_terminal_is_closed_is_ended() {
    let harbour = Harbour::with_web(&[]);
    let Terminal { mut person, program } = Terminal::open(30, 100);
    let script = "trap '' HUP; echo $$ >/tmp/deaf; echo re'ad'y; exec sleep 1000";
    let mut run = Command::new(place::coracle())
        .args(["exec", "-it", "web", "sh", "-c", script])
        .env("XDG_RUNTIME_DIR", harbour.path())
        .stdin(program.try_clone().unwrap())
        .stdout(program)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("ready") {
        let mut bytes = [0; 1000];
        let count = person.read(&mut bytes).unwrap();
        shown.extend(&bytes[..count]);
    }
    let closed = Instant::now();
    // The terminal is not its controlling one, for which the kernel would send the signal.
    drop(person);
    // SAFETY: the call touches no memory, and the process is our child, not waited for yet.
    assert_eq!(unsafe { libc::kill(run.id() as i32, libc::SIGHUP) }, 0);
    assert_eq!(run.wait().unwrap().code(), Some(129));
    let took = closed.elapsed();
    eprintln!("it ended {took:?} after its terminal");
    assert!(took >= Duration::from_secs(10), "{took:?}");
    let script = "while kill -0 $(cat /tmp/deaf) 2>/dev/null; do sleep 0.1; done; echo ended";
    assert_eq!(say(&harbour, script), "ended\n");
}
