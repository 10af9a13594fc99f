use std::io::{PipeWriter, Read as _, pipe};

use super::*;
use crate::console::{Console, Pace};

fn written_to(writer: PipeWriter) -> (Console, GuestOutput) {
    let console = Console::default();
    let output = GuestOutput::start(console.attach(Pace::GuestWaits), writer.into()).unwrap();
    (console, output)
}

fn wait_until_finished(output: &GuestOutput) {
    wait([Some(For::Reading(borrow(output.finished())))], None).unwrap();
}

#[test]
fn a_slow_reader_gets_every_byte_in_order() {
    let (mut reader, writer) = pipe().unwrap();
    let (console, output) = written_to(writer);
    let sink = console.sink();
    let expected: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let guest = thread::spawn({
        let expected = expected.clone();
        move || {
            expected.iter().for_each(|byte| {
                sink.wait_for_room();
                sink.put(*byte);
            })
        }
    });
    let mut received = vec![0; 1000];
    reader.read_exact(&mut received).unwrap();
    thread::yield_now();
    let rest = thread::spawn(move || {
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).map(|_| rest)
    });
    guest.join().unwrap();
    console.end();
    output.close(Drain::All);
    wait_until_finished(&output);
    received.extend(rest.join().unwrap().unwrap());
    assert!(received == expected);
}

#[test]
fn a_reader_that_never_reads_does_not_hold_up_the_end() {
    let (_reader, writer) = pipe().unwrap();
    let (console, output) = written_to(writer);
    let sink = console.sink();
    let guest = thread::spawn(move || {
        (0..1_000_000).for_each(|_| {
            sink.wait_for_room();
            sink.put(b'x');
        })
    });
    console.sink().release();
    guest.join().unwrap();
    console.end();
    output.close(Drain::AtOnce);
    wait_until_finished(&output);
}

#[test]
fn a_closed_pipe_is_an_error_and_vcpus_go_on() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let (console, output) = written_to(writer);
    let sink = console.sink();
    for _ in 0..300_000 {
        sink.wait_for_room();
        sink.put(b'x');
    }
    wait_until_finished(&output);
    assert_eq!(output.take_error().unwrap().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn what_undoes_a_guests_escape_sequences_is_for_terminals_alone() {
    let (mut reader, writer) = pipe().unwrap();
    let (console, output) = written_to(writer);
    let sink = console.sink();
    b"\x1b[?1049h\x1b[c".iter().for_each(|&byte| sink.put(byte));
    console.end();
    output.close(Drain::All);
    wait_until_finished(&output);
    assert!(output.asked().is_some());
    drop((console, output, sink));
    let mut received = Vec::new();
    reader.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"\x1b[?1049h\x1b[c");
}
