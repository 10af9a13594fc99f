use std::io::{BufRead, BufReader};

use crate::support::pipe::pipe;
use crate::support::queue::{self, Queue};
use crate::support::{Coracle, need_kvm};
use crate::virtio::disk;

guest!(
    disk_interrupt,
    "
    catch_interrupts 4f
    enable_local_apic
    route 5, 0x35
    start_disk
    mov dword ptr [rbx + 0x50], 0
2:
    sti
    hlt
    jmp 2b
4:
    pop rax
    mov [0x200000], al
    mov eax, [rbx + 0x60]
    mov [0x200001], al
    mov [rbx + 0x64], eax
    mov eax, [rbx + 0x60]
    mov [0x200002], al
    end_of_interrupt
    send 0x200000, 3
    send 0x302002, 2
    send 0x304000, 512
    power_off
"
);

#[test]
fn a_disk_raises_its_line_at_the_io_apic_when_a_request_is_done() {
    need_kvm();
    let disk = disk();
    let kernel = disk_interrupt().data(Queue::request(queue::IN, 3, &[])).linux64();
    let ended = Coracle::run(&kernel)
        .args(&["--disk", disk.path().to_str().unwrap()])
        .end()
        .with_code(0);
    // The vector; InterruptStatus before and after its acknowledgement; the used ring's index; the sector.
    assert_eq!(ended.stdout[..5], [0x35, 1, 0, 1, 0]);
    assert_eq!(ended.stdout[5..], [3; 512]);
}

guest!(
    two_queues,
    "
    catch_interrupts 4f
    enable_local_apic
    route 5, 0x35
    negotiate_disk
    set_up_queue 0, 0
    set_up_queue 1, 0x800
    driver_ok
    xor r12d, r12d
2:
    # A request on each, and sleep until both are done.
    inc r12d
    mov [0x301002], r12w
    mov [0x301802], r12w
    mov dword ptr [rbx + 0x50], 0
    mov dword ptr [rbx + 0x50], 1
3:
    cli
    cmp [0x302002], r12w
    jne 5f
    cmp [0x302802], r12w
    je 6f
5:
    sti
    hlt
    jmp 3b
6:
    cmp r12d, 20000
    jne 2b
    power_off
4:
    pop rax
    mov eax, [rbx + 0x60]
    mov [rbx + 0x64], eax
    end_of_interrupt
    iretq
"
);

#[test]
fn a_line_that_two_threads_raise_at_once_wakes_the_guest_for_both() {
    need_kvm();
    let disk = disk();
    let kernel = two_queues().data(Queue::request(queue::IN, 3, &[])).linux64();
    for engine in ["sync", "uring"] {
        let disk = format!("{},queues=2,engine={engine}", disk.path().display());
        Coracle::run(&kernel).args(&["--disk", &disk]).end().with_code(0);
    }
}

guest!(
    receive_interrupts,
    "
    catch_interrupts 4f
    enable_local_apic
    route 4, 0x34
    request_to_send
    # Interrupt enable: received data.
    mov edx, 0x3f9
    mov al, 1
    out dx, al
    say \"ready\"
2:
    sti
    hlt
    jmp 2b
4:
    pop rax
    mov edx, 0x3f8
    out dx, al
5:
    mov edx, 0x3fd
    in al, dx
    test al, 1
    jz 6f
    mov edx, 0x3f8
    in al, dx
    cmp al, 0x71
    je 7f
    out dx, al
    jmp 5b
6:
    mov edx, 0x3f8
    mov al, 0x2e
    out dx, al
    end_of_interrupt
    iretq
7:
    power_off
"
);

#[test]
fn typed_input_wakes_a_halted_guest_by_the_serial_port_s_line() {
    need_kvm();
    let mut running = Coracle::run(&receive_interrupts().linux64()).keyboard().start();
    running.wait_for("ready");
    // The vector is the character 4; a point says that the handler has read all there was.
    running.type_in(b"a");
    running.wait_for("4a.");
    running.type_in(b"b");
    running.wait_for("4b.");
    running.type_in(b"q");
    running.end().with_code(0).in_silence();
}

guest!(transmit_interrupts, "
    catch_interrupts 4f
    # The PICs, as every PC sets them up: vectors from 0x20 and 0x28 on; all lines masked but the serial port's.
    mov al, 0x11
    out 0x20, al
    out 0xa0, al
    mov al, 0x20
    out 0x21, al
    mov al, 0x28
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xff
    out 0xa1, al
    mov al, 0xef
    out 0x21, al
    # Interrupt enable: transmitter empty.
    mov edx, 0x3f9
    mov al, 2
    out dx, al
    mov ebx, 5
    mov edx, 0x3f8
    mov al, 0x2e
    out dx, al
2:
    sti
    hlt
    jmp 2b
4:
    pop rax
    mov ecx, eax
    # Reading the cause clears it.
    mov edx, 0x3fa
    in al, dx
    and al, 0xf
    cmp al, 2
    jne 5f
    mov al, 0x20
    out 0x20, al
    dec ebx
    jz 6f
    mov edx, 0x3f8
    mov eax, ecx
    out dx, al
5:
    iretq
6:
    power_off
");

#[test]
fn a_transmitter_that_is_empty_interrupts_through_the_pic() {
    need_kvm();
    let ended = Coracle::run(&transmit_interrupts().linux64())
        .end()
        .with_code(0)
        .in_silence();
    // The first byte, and then the vector for each interrupt but the last.
    assert_eq!(String::from_utf8_lossy(&ended.stdout), ".$$$$");
}

guest!(
    halt_until_an_nmi,
    "
    catch_interrupts 4f
    enable_local_apic
    # The serial port's interrupt, as an NMI.
    route 4, 0x400
    request_to_send
    # Interrupt enable: received data.
    mov edx, 0x3f9
    mov al, 1
    out dx, al
    say \"afloat\"
    cli
2:
    hlt
    jmp 2b
4:
    say \"woken\"
    power_off
"
);

#[test]
fn a_guest_that_waits_for_an_nmi_with_interrupts_off_has_not_halted() {
    need_kvm();
    let (messages, stderr) = pipe();
    let mut running = Coracle::run(&halt_until_an_nmi().linux64())
        .args(&["-vv"])
        .keyboard()
        .stderr(stderr)
        .start();
    running.wait_for("afloat");
    // A guest that has halted is ended at the second look, and its messages end with it.
    let lines = BufReader::new(messages).lines().map_while(Result::ok);
    let mut looks = lines.filter(|line| line.contains("looking whether all vCPUs have halted"));
    assert_eq!(looks.by_ref().take(3).count(), 3);
    running.type_in(b"x");
    let ended = running.end().with_code(0);
    assert!(ended.stdout.ends_with(b"woken"), "{}", ended.describe());
}

guest!(
    halt_between_nmis_of_the_pit,
    "
    # The PIT's first counter: one interrupt after 65536 ticks, an eighteenth of a second.
    .macro start_counter
    mov al, 0x30
    out 0x43, al
    xor al, al
    out 0x40, al
    out 0x40, al
    .endm

    catch_interrupts 4f
    enable_local_apic
    # LINT0, to which the PIT is connected, as an NMI.
    mov ebx, 0xfee00000
    mov dword ptr [rbx + 0x350], 0x400
    say \"afloat\"
    cli
    start_counter
2:
    hlt
    jmp 2b
4:
    # It leaves the registers as they are, so that they are the same at every halt.
    inc dword ptr [0x300000]
    cmp dword ptr [0x300000], 100
    je 5f
    start_counter
    add rsp, 8
    iretq
5:
    say \"woken\"
    power_off
"
);

#[test]
fn a_guest_that_waits_for_nmis_of_the_pit_with_interrupts_off_has_not_halted() {
    need_kvm();
    // The PIT's hundredth interrupt comes after more than five seconds, and a guest that has halted is ended before three.
    let ended = Coracle::run(&halt_between_nmis_of_the_pit().linux64())
        .end()
        .with_code(0);
    assert!(ended.stdout.ends_with(b"woken"), "{}", ended.describe());
}
