use std::io::{Read, pipe};

use super::*;

fn wait_until_finished(output: &GuestOutput) {
    wait([Some(For::Reading(borrow(output.finished())))], None).unwrap();
}

#[test]
fn a_slow_reader_gets_every_byte_in_order() {
    let (mut reader, writer) = pipe().unwrap();
    let output = GuestOutput::new().unwrap();
    output.write_to(writer.into()).unwrap();
    let sink = output.sink();
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
    output.close(Drain::All);
    wait_until_finished(&output);
    let tail = output.tail_of_run();
    received.extend(rest.join().unwrap().unwrap());
    assert!(received == expected);
    assert!(tail == expected[expected.len() - TAIL..]);
}

#[test]
fn a_reader_that_never_reads_does_not_hold_up_the_end() {
    let (_reader, writer) = pipe().unwrap();
    let output = GuestOutput::new().unwrap();
    output.write_to(writer.into()).unwrap();
    let sink = output.sink();
    let guest = thread::spawn(move || {
        (0..1_000_000).for_each(|_| {
            sink.wait_for_room();
            sink.put(b'x');
        })
    });
    output.sink().release();
    guest.join().unwrap();
    output.close(Drain::AtOnce);
    wait_until_finished(&output);
}

#[test]
fn a_closed_pipe_is_an_error_and_vcpus_go_on() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let output = GuestOutput::new().unwrap();
    output.write_to(writer.into()).unwrap();
    let sink = output.sink();
    for _ in 0..4 * QUEUE_LIMIT {
        sink.wait_for_room();
        sink.put(b'x');
    }
    wait_until_finished(&output);
    assert_eq!(output.take_error().unwrap().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn the_tail_of_a_boot_is_its_own_and_that_of_the_run_has_the_boot_before() {
    let output = GuestOutput::new().unwrap();
    let sink = output.sink();
    b"first".iter().for_each(|&byte| sink.put(byte));
    output.begin_boot();
    assert_eq!(output.tail_of_boot(), b"");
    assert_eq!(output.tail_of_run(), b"first");
    b"second".iter().for_each(|&byte| sink.put(byte));
    assert_eq!(output.tail_of_boot(), b"second");
    assert_eq!(output.tail_of_run(), b"firstsecond");
}

#[test]
fn vcpus_wait_for_room_again_after_a_boot_that_was_released() {
    let (mut reader, writer) = pipe().unwrap();
    let output = GuestOutput::new().unwrap();
    let sink = Entry(output.queue.clone());
    sink.release();
    output.begin_boot();
    let guest = thread::spawn(move || {
        (0..4 * QUEUE_LIMIT).for_each(|_| {
            sink.wait_for_room();
            sink.put(b'x');
            assert!(sink.0.lock().queue.len() <= QUEUE_LIMIT);
        })
    });
    output.write_to(writer.into()).unwrap();
    let mut received = vec![0; 4 * QUEUE_LIMIT];
    reader.read_exact(&mut received).unwrap();
    guest.join().unwrap();
}

#[test]
fn what_undoes_a_guests_escape_sequences_is_for_terminals_alone() {
    let (mut reader, writer) = pipe().unwrap();
    let output = GuestOutput::new().unwrap();
    output.write_to(writer.into()).unwrap();
    let sink = output.sink();
    b"\x1b[?1049h\x1b[c".iter().for_each(|&byte| sink.put(byte));
    output.close(Drain::All);
    wait_until_finished(&output);
    assert!(output.asked().is_some());
    drop((output, sink));
    let mut received = Vec::new();
    reader.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"\x1b[?1049h\x1b[c");
}
