//! `coracle run -- COMMAND`: a program in the guest, used like a program of the host.

use std::fs::{self, File};
use std::io::Read;

use libc::{SIGINT, SIGTERM, SIGWINCH};

use crate::images::{assert_clean, ext4, file_on, noise, raw, scratch};
use crate::run::{Coracle, Finished};

crate::group!["program":
    its_output_and_its_errors_arrive_apart_and_nothing_else_does,
    its_status_is_coracles,
    a_signal_that_kills_it_is_128_and_its_number,
    what_cannot_be_executed_is_126_and_what_is_not_there_127,
    its_directory_is_made_if_it_is_not_there,
    its_arguments_arrive_whatever_is_in_them,
    every_byte_arrives_in_both_directions_and_so_does_the_end,
    an_archive_goes_through_tar_on_both_sides,
    a_program_that_reads_nothing_leaves_all_of_stdin,
    a_line_that_a_shell_reads_is_all_that_is_taken,
    a_program_that_leaves_others_behind_ends_at_once,
    a_reader_that_leaves_is_a_broken_pipe_for_the_program,
    output_for_a_slow_reader_arrives_whole,
    environment_directory_user_and_host_name_are_as_asked_for,
    a_terminal_has_the_right_size,
    a_terminal_that_is_resized_tells_its_program,
    sigterm_is_the_programs_and_the_second_one_ends_the_guest,
    sigint_is_the_programs,
    ctrl_a_x_ends_a_program_on_a_terminal,
    what_it_wrote_to_a_disk_is_there,
    a_disk_is_whole_though_others_wrote_to_it_when_the_program_ended,
    a_guest_that_powers_off_under_it_is_0_and_one_that_panics_is_explained,
    the_console_is_shown_on_request,
];

fn run(options: &[&str], words: &[&str]) -> Coracle {
    Coracle::run().args(options).args(["--"]).args(words)
}

fn shell(script: &str) -> Coracle {
    run(&[], &["sh", "-c", script])
}

#[track_caller]
fn assert_wrote(finished: &Finished, stdout: &[u8], stderr: &str) {
    assert!(finished.stdout == stdout, "stdout\n{finished}");
    assert_eq!(finished.stderr, stderr, "stderr\n{finished}");
}

fn its_output_and_its_errors_arrive_apart_and_nothing_else_does() {
    let finished = shell("echo out; echo err >&2").end();
    finished.assert_code(0);
    assert_wrote(&finished, b"out\n", "err\n");
}

fn its_status_is_coracles() {
    for status in [0, 1, 125, 126, 127, 255] {
        let finished = shell(&format!("exit {status}")).end();
        finished.assert_code(status);
        assert_wrote(&finished, b"", "");
    }
}

fn a_signal_that_kills_it_is_128_and_its_number() {
    for signal in [1, 9, 11, 15] {
        shell(&format!("kill -{signal} $$"))
            .end()
            .assert_code(128 + signal);
    }
}

fn what_cannot_be_executed_is_126_and_what_is_not_there_127() {
    let missing = run(&[], &["no-such-program"]).end();
    missing
        .assert_code(127)
        .assert_explains("coracle: there is no program no-such-program in the guest");
    let directory = run(&[], &["/proc"]).end();
    directory
        .assert_code(126)
        .assert_explains("cannot execute /proc: Permission denied");
    let file = run(&["-w", "/init"], &["true"]).end();
    file.assert_code(125)
        .assert_explains("cannot make the directory /init");
    run(&["-u", "nobody-here"], &["true"])
        .end()
        .assert_code(125)
        .assert_explains("no user nobody-here");
    run(&["--kernel", "/dev/null"], &["true"])
        .end()
        .assert_code(125)
        .assert_explains("leave out --kernel");
}

fn its_directory_is_made_if_it_is_not_there() {
    assert_wrote(&run(&["-w", "/no/such"], &["pwd"]).end(), b"/no/such\n", "");
}

fn its_arguments_arrive_whatever_is_in_them() {
    let words = ["printf", "%s|", "a b", "", "\"'\\$x", "-- --", "\u{e9}\n", "*"];
    assert_wrote(
        &run(&[], &words).end(),
        "a b||\"'\\$x|-- --|\u{e9}\n|*|".as_bytes(),
        "",
    );
    let long = "x".repeat(100_000);
    assert_wrote(
        &run(&[], &["echo", &long]).end(),
        format!("{long}\n").as_bytes(),
        "",
    );
}

fn every_byte_arrives_in_both_directions_and_so_does_the_end() {
    let mut bytes: Vec<u8> = (0..=u8::MAX).collect();
    bytes.extend(noise(12, 1 << 20));
    let mut run = run(&[], &["cat"]).with_input().start();
    let typing = run.paste(bytes.clone());
    drop(typing.join().unwrap());
    let finished = run.end();
    finished.assert_code(0);
    assert_wrote(&finished, &bytes, "");
}

fn an_archive_goes_through_tar_on_both_sides() {
    let scratch = scratch();
    let from = scratch.path().join("from");
    fs::create_dir(&from).unwrap();
    for (name, count) in [("empty", 0), ("small", 10), ("large", 700_000)] {
        fs::write(from.join(name), noise(count as u64, count)).unwrap();
    }
    let sums = "tar x && cd from && sha256sum *";
    let script = format!(
        "cd {} && tar c from | {} run -- sh -c '{sums}' >there && cd from && sha256sum * >../here && cmp ../here ../there",
        scratch.path().display(),
        crate::place::coracle().display(),
    );
    Coracle::program("sh")
        .args(["-c", &script])
        .end()
        .assert_powered_off();
}

/// Runs `words` in the guest with stdin at the begin of a file with `text`, and returns what is left to read in it.
fn left_of(text: &[u8], words: &[&str]) -> Vec<u8> {
    let scratch = scratch();
    let mut file = File::open(raw(&scratch, "input", text)).unwrap();
    let run = run(&[], words).stdin(file.try_clone().unwrap());
    run.end().assert_code(0);
    let mut left = Vec::new();
    file.read_to_end(&mut left).unwrap();
    left
}

fn a_program_that_reads_nothing_leaves_all_of_stdin() {
    assert_eq!(left_of(b"one\ntwo\n", &["true"]), b"one\ntwo\n");
    assert_eq!(left_of(b"one\ntwo\n", &["sleep", "0.1"]), b"one\ntwo\n");
}

fn a_line_that_a_shell_reads_is_all_that_is_taken() {
    // A shell reads byte by byte, so that it takes no more.
    let words = ["sh", "-c", "read -r line; test \"$line\" = one"];
    assert_eq!(left_of(b"one\ntwo\nthree\n", &words), b"two\nthree\n");
}

fn a_program_that_leaves_others_behind_ends_at_once() {
    // The other one holds its stdout and stderr.
    let finished = shell("sleep 1000 & echo started; exit 3").end();
    finished.assert_code(3);
    assert_wrote(&finished, b"started\n", "");
}

fn a_reader_that_leaves_is_a_broken_pipe_for_the_program() {
    let script = format!(
        "{{ {} run -- yes; echo $? >&2; }} | head -n 1",
        crate::place::coracle().display()
    );
    let finished = Coracle::program("sh").args(["-c", &script]).end();
    assert_wrote(&finished, b"y\n", "141\n");
}

fn output_for_a_slow_reader_arrives_whole() {
    // More than all buffers on the way hold together.
    let script = format!(
        "{} run -- sh -c 'dd if=/dev/zero bs=1000 count=1000 2>/dev/null' | \
         {{ sleep 1; dd of=/dev/null bs=10 count=1 2>/dev/null; sleep 1; cat; }} | wc -c",
        crate::place::coracle().display()
    );
    let finished = Coracle::program("sh").args(["-c", &script]).end();
    assert_eq!(finished.console().trim(), "999990", "{finished}");
}

fn environment_directory_user_and_host_name_are_as_asked_for() {
    let scratch = scratch();
    let variables = raw(
        &scratch,
        "variables",
        b"# a comment\nB=from a file\n\nA=not this\n",
    );
    let options = [
        "-e",
        "A=a b",
        "--env-file",
        variables.to_str().unwrap(),
        "-w",
        "/tmp",
        "-u",
        "1000:100",
    ];
    let script = "echo \"$A|$B|$HOME|$(pwd)|$(id -u):$(id -g)|$(hostname)\"";
    let run = run(
        &[&options[..], &["--hostname", "web"]].concat(),
        &["sh", "-c", script],
    );
    assert_wrote(&run.end(), b"a b|from a file|/|/tmp|1000:100|web\n", "");
}

fn a_terminal_has_the_right_size() {
    let mut run = run(&[], &["sh"]).on_terminal().start();
    run.wait_for("# ");
    assert!(run.terminal_modes().is_raw());
    run.type_in("echo $((6 * 7)) $(stty size) $(tty)\r");
    run.wait_for("42 30 100 /dev/pts/0");
    run.type_in("exit 5\r");
    run.end().assert_code(5).assert_terminal_restored();
}

fn a_terminal_that_is_resized_tells_its_program() {
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut run = run(&[], &["sh", "-c", script]).on_terminal().start();
    run.wait_for("ready");
    for rows in 31..36 {
        run.resize(rows, 77);
        run.signal(SIGWINCH);
        run.wait_for(&format!("{rows} 77"));
    }
    run.type_in("\x03");
    run.end().assert_code(130).assert_terminal_restored();
}

fn sigterm_is_the_programs_and_the_second_one_ends_the_guest() {
    let script = "trap 'echo got it' TERM; echo ready; while :; do sleep 0.1; done";
    let mut run = shell(script).start();
    run.wait_for("ready");
    run.signal(SIGTERM);
    run.wait_for("got it");
    run.signal(SIGTERM);
    run.end().assert_code(143);

    let mut run = shell("echo ready; exec sleep 1000").start();
    run.wait_for("ready");
    run.signal(SIGTERM);
    run.end().assert_code(143);
}

fn sigint_is_the_programs() {
    let mut run = shell("trap 'echo got it; exit 7' INT; echo ready; while :; do sleep 0.1; done").start();
    run.wait_for("ready");
    run.signal(SIGINT);
    run.end().assert_code(7).assert_prints("got it");
}

fn ctrl_a_x_ends_a_program_on_a_terminal() {
    let mut run = run(&[], &["sh", "-c", "stty -isig; echo re'ad'y; exec sleep 1000"])
        .on_terminal()
        .start();
    run.wait_for("ready");
    run.type_in("\x03\x01x");
    run.end().assert_code(112).assert_terminal_restored();
}

fn what_it_wrote_to_a_disk_is_there() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk.ext4");
    let options = ["--disk", disk.to_str().unwrap()];
    let script = "mount /dev/vda /mnt 2>/dev/null || { mkdir /mnt; mount /dev/vda /mnt; }; echo kept >/mnt/file; exit 9";
    run(&options, &["sh", "-c", script]).end().assert_code(9);
    assert_clean(&disk);
    assert_eq!(file_on(&disk, "/file"), b"kept\n");
}

fn a_disk_is_whole_though_others_wrote_to_it_when_the_program_ended() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk.ext4");
    let options = ["--disk", disk.to_str().unwrap()];
    let script = "mkdir -p /mnt; mount /dev/vda /mnt; echo kept >/mnt/file; \
        for i in 1 2 3 4; do dd if=/dev/zero of=/mnt/$i bs=1M count=4 conv=notrunc 2>/dev/null & done; exit 9";
    run(&options, &["sh", "-c", script]).end().assert_code(9);
    assert_clean(&disk);
    assert_eq!(file_on(&disk, "/file"), b"kept\n");
}

fn a_guest_that_powers_off_under_it_is_0_and_one_that_panics_is_explained() {
    shell("poweroff; sleep 1000").end().assert_code(0);
    let finished = shell("echo c >/proc/sysrq-trigger").end();
    finished.assert_code(102).assert_explains("panic");
}

fn the_console_is_shown_on_request() {
    let finished = run(&["--console"], &["echo", "out"]).end();
    finished.assert_code(0).assert_explains("Coracle guest: Linux ");
    assert_eq!(finished.stdout, b"out\n", "{finished}");
}
