//! The serial console: no byte is lost, whether stdout is a pipe, a file or a terminal.
//!
//! In the nested machine every byte costs an exit or two in software emulation, of 50 to 250 microseconds each, so 10 MiB
//! would take most of an hour. The amounts are smaller there unless CORACLE_LINUX_TESTS=full is in the environment, and
//! smaller again on the Intel machine, where a byte costs ten times as much.

use std::io::{Read, pipe};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;
use std::{fs, io};

use crate::images::{noise, raw, scratch, sparse};
use crate::machines::{self, Machine};
use crate::place;
use crate::run::Coracle;

crate::group!["console":
    all_that_the_guest_prints_arrives_through_a_pipe,
    all_that_is_pasted_through_a_pipe_arrives_in_the_guest,
    all_that_is_pasted_on_a_terminal_arrives_in_the_guest,
    a_slow_reader_gets_all_that_the_guest_prints,
    the_end_of_stdin_does_not_end_the_guest,
];

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn amount(full: usize, nested: usize) -> usize {
    match machines::current() {
        _ if place::is_full() => full,
        Some(Machine::Intel | Machine::IntelAlone) => nested / 8,
        Some(Machine::Amd(_)) | None => nested,
    }
}

/// In seconds. Long enough for the full amounts in the nested machine.
fn patience() -> u64 {
    if place::is_full() { 7200 } else { 300 }
}

fn all_that_the_guest_prints_arrives_through_a_pipe() {
    let scratch = scratch();
    let printed = noise(1, amount(10 * MIB, 8 * KIB));
    let disk = raw(&scratch, "printed", &printed);
    let finished = Coracle::run()
        .args(["--disk", disk.to_str().unwrap()])
        .script(PRINT)
        .patience(patience())
        .end();
    assert_same(
        finished.assert_powered_off().bytes_after(BEGIN, printed.len()),
        &printed,
    );
}

/// The guest prints this before the bytes that are compared, and switches off the terminal's changes to them.
const BEGIN: &str = "BEGIN";
const PRINT: &str = "stty raw; printf BEGIN; cat /dev/vda";

fn a_slow_reader_gets_all_that_the_guest_prints() {
    const BURST: usize = 1000;
    const PAUSE: Duration = Duration::from_millis(80);
    let scratch = scratch();
    // More than waits anywhere on the way, so that the guest itself has to wait: 64 KiB in Coracle, and 4 KiB in the pipe.
    let printed = noise(2, 80 * KIB);
    let disk = raw(&scratch, "printed", &printed);
    let (mut reader, writer) = pipe().unwrap();
    // SAFETY: F_SETPIPE_SZ takes a number and touches no memory of ours.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert_eq!(size, 4096, "F_SETPIPE_SZ: {}", io::Error::last_os_error());
    let run = Coracle::run()
        .args(["--disk", disk.to_str().unwrap()])
        .script(PRINT)
        .stdout(writer)
        .start();
    let mut stdout = Vec::new();
    loop {
        let mut burst = [0; BURST];
        match reader.read(&mut burst).unwrap() {
            0 => break,
            count => stdout.extend(&burst[..count]),
        }
        thread::sleep(PAUSE);
    }
    let mut finished = run.end();
    finished.stdout = stdout;
    assert_same(
        finished.assert_powered_off().bytes_after(BEGIN, printed.len()),
        &printed,
    );
}

fn all_that_is_pasted_through_a_pipe_arrives_in_the_guest() {
    paste(noise(3, amount(MIB, 8 * KIB)), Coracle::run().with_input());
}

/// What a person pastes is text: control characters would be for the terminal, or the escape key.
fn all_that_is_pasted_on_a_terminal_arrives_in_the_guest() {
    let mut text = noise(4, amount(MIB, 8 * KIB));
    text.iter_mut().for_each(|byte| *byte = b' ' + *byte % 95);
    paste(text, Coracle::run().on_terminal());
}

fn paste(pasted: Vec<u8>, coracle: Coracle) {
    let scratch = scratch();
    let disk = sparse(&scratch, "pasted", pasted.len() as u64);
    let count = pasted.len();
    let mut run = coracle
        .args(["--disk", disk.to_str().unwrap()])
        .script(&format!(
            "stty raw -echo; echo READY; head -c {count} >/dev/vda; echo TAKEN"
        ))
        .patience(patience())
        .start();
    run.wait_for("READY");
    let pasting = run.paste(pasted.clone());
    run.wait_for("TAKEN");
    run.end().assert_powered_off();
    drop(pasting.join().unwrap());
    assert_same(&fs::read(disk).unwrap(), &pasted);
}

fn the_end_of_stdin_does_not_end_the_guest() {
    let mut run = Coracle::run()
        .with_input()
        .script("read word; echo got $word; sleep 2; echo still here")
        .start();
    run.wait_for("Coracle guest");
    run.type_in("word\n");
    run.close_input();
    run.end()
        .assert_powered_off()
        .assert_prints("got word\n")
        .assert_prints("still here\n");
}

#[track_caller]
fn assert_same(arrived: &[u8], sent: &[u8]) {
    assert_eq!(arrived.len(), sent.len());
    if let Some(at) = arrived
        .iter()
        .zip(sent)
        .position(|(arrived, sent)| arrived != sent)
    {
        let around = |bytes: &[u8]| bytes[at.saturating_sub(8)..bytes.len().min(at + 24)].to_vec();
        panic!(
            "byte {at} of {} differs: {:02x?} arrived, {:02x?} were sent",
            sent.len(),
            around(arrived),
            around(sent)
        );
    }
}
