use std::io::{PipeReader, Read, Write};

use crate::support::{Coracle, need_kvm};

guest!(
    all_bytes,
    "
    xor eax, eax
    mov edx, 0x3f8
2:
    out dx, al
    inc al
    jnz 2b
    power_off
"
);

#[test]
fn every_byte_that_a_guest_transmits_arrives_on_stdout() {
    need_kvm();
    let ended = Coracle::run(&all_bytes().linux64())
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(ended.stdout, (0..=u8::MAX).collect::<Vec<_>>());
}

guest!(
    send_data,
    "
    mov ecx, [0x300000]
    mov esi, 0x300004
    mov edx, 0x3f8
    rep outsb
    power_off
"
);

#[test]
fn every_byte_of_a_string_instruction_arrives_in_order() {
    need_kvm();
    let bytes: Vec<u8> = (0..20_000u32).map(|index| ((index * index) >> 3) as u8).collect();
    let data = [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat();
    let ended = Coracle::run(&send_data().data(data).linux64())
        .end()
        .with_code(0)
        .in_silence();
    assert!(
        ended.stdout == bytes,
        "{} bytes arrived, or in another order",
        ended.stdout.len()
    );
}

guest!(
    echo,
    "
    mov ebx, [0x300000]
    request_to_send
    echo_input
    power_off
"
);

#[test]
fn input_from_a_pipe_reaches_a_guest_that_polls_whole_and_in_order() {
    need_kvm();
    // More than the receive FIFO's 64 bytes, and every value: 1 is the escape key on a terminal only.
    let input: Vec<u8> = (0..700u32).map(|index| (index * 7) as u8).collect();
    let kernel = echo().data(700u32.to_le_bytes()).linux64();
    let ended = Coracle::run(&kernel)
        .input(input.clone())
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(ended.stdout, input);
}

#[test]
fn input_typed_while_the_guest_runs_reaches_it() {
    need_kvm();
    let kernel = echo().data(8u32.to_le_bytes()).linux64();
    let mut running = Coracle::run(&kernel).keyboard().start();
    running.type_in(b"boat");
    running.wait_for("boat");
    running.type_in(b"sail");
    running.wait_for("sail");
    running.end().with_code(0).in_silence();
}

guest!(
    speak_and_wait,
    "
    say \"afloat\"
    request_to_send
    mov edx, 0x3fd
2:
    in al, dx
    test al, 1
    jz 2b
    power_off
"
);

#[test]
fn the_end_of_stdin_is_not_the_end_of_the_guest() {
    need_kvm();
    let mut running = Coracle::run(&speak_and_wait().linux64()).start();
    running.wait_for("afloat");
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
}

#[test]
fn a_closed_stdin_is_not_the_end_of_the_guest() {
    need_kvm();
    let kernel = all_bytes().linux64();
    let closed = Coracle::run(&kernel).through(&["sh", "-c", "exec \"$@\" <&-", "sh"]);
    assert_eq!(closed.end().with_code(0).stdout.len(), 256);
}

guest!(
    probe_before_listening,
    "
    # What a driver does before it is ready: it empties the FIFO, and tries the port in loopback.
    mov edx, 0x3f8
    in al, dx
    mov edx, 0x3fc
    mov al, 0x1a
    out dx, al
    mov edx, 0x3f8
    in al, dx
    in al, dx
    request_to_send
    mov ebx, 26
    echo_input
    power_off
"
);

#[test]
fn input_that_comes_before_the_driver_is_ready_is_not_lost() {
    need_kvm();
    let input = b"abcdefghijklmnopqrstuvwxyz";
    let ended = Coracle::run(&probe_before_listening().linux64())
        .input(input)
        .end()
        .with_code(0);
    assert_eq!(ended.stdout, input);
}

/// A pipe with this text in it, and no writer any more.
fn pipe_with(text: &[u8]) -> PipeReader {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text).unwrap();
    reader
}

fn left_in(mut pipe: PipeReader) -> Vec<u8> {
    let mut left = Vec::new();
    pipe.read_to_end(&mut left).unwrap();
    left
}

guest!(
    ask_for_nothing,
    "
    say \"afloat\"
    power_off
"
);

#[test]
fn a_guest_that_asks_for_no_input_leaves_all_of_it_to_the_next_reader() {
    need_kvm();
    let input = [b'a'; 1000];
    let stdin = pipe_with(&input);
    Coracle::run(&ask_for_nothing().linux64())
        .stdin(stdin.try_clone().unwrap())
        .end()
        .with_code(0);
    assert_eq!(left_in(stdin), input);
}

guest!(
    ask_and_never_read,
    "
    request_to_send
    mov edx, 0x3fd
2:
    in al, dx
    test al, 1
    jz 2b
    power_off
"
);

#[test]
fn no_more_of_a_pipe_is_read_than_the_serial_port_takes() {
    const FIFO: usize = 64;
    need_kvm();
    let input: Vec<u8> = (0..1000u32).map(|index| index as u8).collect();
    let stdin = pipe_with(&input);
    Coracle::run(&ask_and_never_read().linux64())
        .stdin(stdin.try_clone().unwrap())
        .end()
        .with_code(0);
    let left = left_in(stdin);
    assert!(left.len() >= input.len() - FIFO, "{} bytes are left", left.len());
    assert!(input.ends_with(&left));
}

#[test]
fn a_loop_over_lines_sees_all_of_them_when_the_guest_asks_for_none() {
    need_kvm();
    let kernel = ask_for_nothing().linux64();
    let each = "while read -r line; do \"$@\" >&2 || exit; echo \"$line\"; done";
    let ended = Coracle::run(&kernel)
        .through(&["sh", "-c", each, "sh"])
        .input("one\ntwo\nthree\n")
        .end()
        .with_code(0);
    assert_eq!(ended.stdout, b"one\ntwo\nthree\n");
    assert_eq!(ended.stderr, "afloat".repeat(3));
}
