use std::thread;

use coracle::config::Config;
use coracle::console::{Console, Keyboard, Pace, Read, Reader};
use coracle::machine::{Machine, OpenFiles, Outcome, Running};
use coracle::timeline::Timeline;

use crate::support::{Kernel, need_kvm};

guest!(
    echo_for_ever,
    "
    say \"afloat\"
    request_to_send
    xor ebx, ebx
    echo_input
"
);

guest!(
    echo_and_power_off,
    "
    request_to_send
    mov ebx, 1
    echo_input
    power_off
"
);

guest!(
    count,
    "
    # Letters, as many as three times what a console keeps.
    mov ecx, 0xc0000
    mov dx, 0x3f8
2:
    mov al, cl
    and al, 0x0f
    add al, 0x61
    out dx, al
    dec ecx
    jnz 2b
    power_off
"
);

/// Starts a machine with a console and without a terminal.
fn start(kernel: &Kernel, console: &Console) -> Running {
    let config = Config {
        kernel: Some(kernel.path().into()),
        ..Config::default()
    };
    let opened = OpenFiles::open(&config).unwrap();
    let machine = Machine::build(&config, &opened, "", console.sink(), &Timeline::off()).unwrap();
    let running = machine.start().unwrap();
    console.connect(running.serial().clone());
    running
}

/// Reads until `expected` has come, and nothing else.
fn read(reader: &mut Reader, expected: &[u8]) {
    let (mut all, mut bytes) = (Vec::new(), Vec::new());
    while all.len() < expected.len() {
        assert_eq!(reader.read(&mut bytes), Read::Bytes { missed: 0 });
        all.append(&mut bytes);
    }
    assert_eq!(String::from_utf8_lossy(&all), String::from_utf8_lossy(expected));
}

/// Types all, as the guest takes it.
fn type_in(keyboard: &Keyboard, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let taken = keyboard.type_in(bytes);
        bytes = &bytes[taken..];
        thread::yield_now();
    }
}

#[test]
fn code_without_a_terminal_attaches_types_detaches_and_attaches_again() {
    need_kvm();
    let console = Console::default();
    let running = start(&echo_for_ever().linux64(), &console);
    let mut reader = console.attach(Pace::GuestWaits);
    read(&mut reader, b"afloat");
    let keyboard = console.keyboard().unwrap();
    type_in(&keyboard, b"boat");
    read(&mut reader, b"boat");
    drop((reader, keyboard));
    // Nobody reads, and the guest goes on.
    type_in(&console.keyboard().unwrap(), b"oars");
    let mut again = console.attach(Pace::GuestWaits);
    read(&mut again, b"afloatboatoars");
    // Two at once, and both type.
    let mut other = console.attach(Pace::Misses);
    read(&mut other, b"afloatboatoars");
    let keyboards = [0, 1].map(|_| console.keyboard().unwrap());
    type_in(&keyboards[0], b"sail");
    type_in(&keyboards[1], b"keel");
    read(&mut again, b"sailkeel");
    read(&mut other, b"sailkeel");
    running.end(Outcome::Quit);
    running.wait();
    console.end();
    assert_eq!(again.read(&mut Vec::new()), Read::Ended);
}

#[test]
fn a_guest_that_prints_much_is_read_whole_by_one_while_another_reads_nothing() {
    need_kvm();
    const PRINTED: usize = 0xc0000;
    let console = Console::default();
    let mut stalled = console.attach(Pace::Misses);
    let mut reader = console.attach(Pace::GuestWaits);
    let running = start(&count().linux64(), &console);
    let all = thread::spawn(move || {
        let (mut all, mut bytes) = (Vec::new(), Vec::new());
        while let Read::Bytes { missed: 0 } = reader.read(&mut bytes) {
            all.append(&mut bytes);
        }
        all
    });
    assert!(matches!(*running.wait(), Outcome::PoweredOff));
    console.end();
    let expected: Vec<_> = (1..=PRINTED).rev().map(|left| b'a' + (left as u8 & 15)).collect();
    assert!(all.join().unwrap() == expected);
    let mut end = Vec::new();
    let Read::Bytes { missed } = stalled.read(&mut end) else {
        panic!("the reader gets what is kept")
    };
    assert!(missed > 0 && end == expected[missed as usize..]);
}

#[test]
fn any_number_of_threads_wait_for_the_end_of_a_run_that_another_one_ends() {
    need_kvm();
    let console = Console::default();
    let running = start(&echo_and_power_off().linux64(), &console);
    thread::scope(|scope| {
        let waits = [0, 1].map(|_| scope.spawn(|| running.wait()));
        assert!(running.pause());
        running.resume();
        type_in(&console.keyboard().unwrap(), b"x");
        for wait in waits {
            assert!(matches!(*wait.join().unwrap(), Outcome::PoweredOff));
        }
    });
    running.end(Outcome::Quit);
    assert!(
        matches!(*running.wait(), Outcome::PoweredOff),
        "the first end counts"
    );
    assert!(!running.pause());
    // In a run that has not ended, the end comes from outside.
    let running = start(&echo_for_ever().linux64(), &console);
    thread::scope(|scope| {
        let wait = scope.spawn(|| running.wait());
        // Also when it is paused.
        assert!(running.pause());
        scope.spawn(|| running.end(Outcome::Signal(15)));
        assert!(matches!(*wait.join().unwrap(), Outcome::Signal(15)));
    });
}
