use crate::support::{Coracle, kvm_is_here};

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
    if !kvm_is_here() {
        return;
    }
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
    if !kvm_is_here() {
        return;
    }
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
    if !kvm_is_here() {
        return;
    }
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
    if !kvm_is_here() {
        return;
    }
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
    if !kvm_is_here() {
        return;
    }
    let mut running = Coracle::run(&speak_and_wait().linux64()).start();
    running.wait_for("afloat");
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
}

#[test]
fn a_closed_stdin_is_not_the_end_of_the_guest() {
    if !kvm_is_here() {
        return;
    }
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
    if !kvm_is_here() {
        return;
    }
    let input = b"abcdefghijklmnopqrstuvwxyz";
    let ended = Coracle::run(&probe_before_listening().linux64())
        .input(input)
        .end()
        .with_code(0);
    assert_eq!(ended.stdout, input);
}
