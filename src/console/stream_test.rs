use std::sync::mpsc::channel;

use super::*;
use crate::console::keyboard::Keys;
use crate::console::wait::{For, borrow, wait};
use crate::interrupt::Interrupt;

/// More than is kept, and than a reader may be behind.
const MUCH: usize = 3 * PAST;

fn print(console: &Console, bytes: &[u8]) {
    let sink = console.sink();
    for &byte in bytes {
        sink.wait_for_room();
        sink.put(byte);
    }
    sink.pause();
}

/// Numbered, so that no byte can stand for another.
fn numbered(length: usize) -> Vec<u8> {
    (0..length / 4)
        .flat_map(|number| (number as u32).to_le_bytes())
        .collect()
}

/// All that a reader gets until the end, and how much it missed.
fn rest(mut reader: Reader) -> (Vec<u8>, u64) {
    let (mut all, mut missing, mut bytes) = (Vec::new(), 0, Vec::new());
    loop {
        match reader.read(&mut bytes) {
            Read::Bytes { missed } => missing += missed,
            Read::Woken => panic!("nobody wakes this reader"),
            Read::Ended => return (all, missing),
        }
        all.append(&mut bytes);
    }
}

#[test]
fn who_attaches_gets_the_past_and_then_what_comes_and_the_guest_goes_on_without_readers() {
    let console = Console::default();
    print(&console, b"nobody looks\n");
    let mut first = console.attach(Pace::GuestWaits);
    let mut bytes = Vec::new();
    assert_eq!(first.read(&mut bytes), Read::Bytes { missed: 0 });
    assert_eq!(bytes, b"nobody looks\n");
    print(&console, b"one looks\n");
    assert_eq!(first.read(&mut bytes), Read::Bytes { missed: 0 });
    assert_eq!(bytes, b"one looks\n");
    drop(first);
    let printed = numbered(MUCH);
    print(&console, &printed);
    let again = console.attach(Pace::GuestWaits);
    console.end();
    let (all, missed) = rest(again);
    assert!(all == printed[printed.len() - PAST..], "the past that is kept");
    assert_eq!(missed, 0, "what was before the past is no loss of this reader");
}

#[test]
fn the_guest_waits_for_a_reader_that_is_to_get_all_and_a_reader_that_may_miss_some_is_told_how_much() {
    let console = Console::default();
    let printed = numbered(MUCH);
    let mut slow = console.attach(Pace::GuestWaits);
    let stalled = console.attach(Pace::Misses);
    let guest = thread::spawn({
        let (console, printed) = (console.clone(), printed.clone());
        move || {
            print(&console, &printed);
            console.end();
        }
    });
    let (mut all, mut bytes) = (Vec::new(), Vec::new());
    while let Read::Bytes { missed } = slow.read(&mut bytes) {
        assert_eq!(missed, 0);
        assert!(bytes.len() as u64 <= BEHIND, "the guest did not wait");
        all.append(&mut bytes);
        thread::yield_now();
    }
    guest.join().unwrap();
    assert!(all == printed);
    let (some, missed) = rest(stalled);
    assert!(some == printed[missed as usize..], "what is left is the end");
    assert_eq!(some.len(), PAST);
}

#[test]
fn two_readers_at_once_both_get_every_byte() {
    let console = Console::default();
    let printed = numbered(MUCH);
    let readers = [0, 1].map(|_| {
        let reader = console.attach(Pace::GuestWaits);
        thread::spawn(move || rest(reader))
    });
    print(&console, &printed);
    console.end();
    for reader in readers {
        assert!(reader.join().unwrap() == (printed.clone(), 0));
    }
}

#[test]
fn a_guest_that_waits_for_a_reader_goes_on_when_that_reader_is_dropped() {
    let console = Console::default();
    let reader = console.attach(Pace::GuestWaits);
    let (waits, waiting) = channel();
    let guest = thread::spawn({
        let console = console.clone();
        move || {
            print(&console, &[b'x'; BEHIND as usize]);
            waits.send(()).unwrap();
            print(&console, &[b'x'; MUCH]);
        }
    });
    waiting.recv().unwrap();
    assert!(console.0.lock().is_full());
    drop(reader);
    guest.join().unwrap();
}

#[test]
fn a_reader_is_woken_while_it_reads_and_before() {
    let console = Console::default();
    let mut reader = console.attach(Pace::Misses);
    let waker = reader.waker();
    waker.wake();
    let mut bytes = Vec::new();
    assert_eq!(reader.read(&mut bytes), Read::Woken);
    let read = thread::spawn(move || {
        let woken = reader.read(&mut bytes);
        (woken, reader)
    });
    while console.0.lock().waiting == 0 {
        thread::yield_now();
    }
    waker.wake();
    let (woken, mut reader) = read.join().unwrap();
    assert_eq!(woken, Read::Woken);
    // No byte is lost by that.
    print(&console, b"x");
    waker.wake();
    let mut bytes = Vec::new();
    assert_eq!(reader.read(&mut bytes), Read::Woken);
    assert_eq!(reader.read(&mut bytes), Read::Bytes { missed: 0 });
    assert_eq!(bytes, b"x");
}

#[test]
fn the_tail_of_a_boot_is_its_own_and_that_of_the_run_has_the_boot_before() {
    let console = Console::default();
    print(&console, b"first");
    console.begin_boot();
    assert_eq!(console.tail_of_boot(), b"");
    assert_eq!(console.tail_of_run(), b"first");
    print(&console, b"second");
    assert_eq!(console.tail_of_boot(), b"second");
    assert_eq!(console.tail_of_run(), b"firstsecond");
    let printed = numbered(MUCH);
    print(&console, &printed);
    assert!(console.tail_of_boot() == printed[printed.len() - TAIL..]);
}

#[test]
fn vcpus_that_are_released_do_not_wait_and_wait_again_in_the_next_boot() {
    let console = Console::default();
    let _reader = console.attach(Pace::GuestWaits);
    console.sink().release();
    print(&console, &[b'x'; 2 * BEHIND as usize]);
    assert!(!console.0.is_full.load(Ordering::Relaxed));
    console.begin_boot();
    assert!(console.0.is_full.load(Ordering::Relaxed));
}

#[test]
fn what_several_keyboards_type_arrives_and_each_is_told_when_the_guest_takes_more() {
    const RTS: [u8; 1] = [2];
    let console = Console::default();
    let [one, other] = [0, 1].map(|_| console.keyboard().unwrap());
    let is_told = |keyboard: &Keyboard| {
        let ready = wait([keyboard.takes_more()], Some(Duration::ZERO)).unwrap();
        keyboard.note_that_it_takes_more();
        ready == [true]
    };
    assert_eq!(one.type_in(b"early"), 0);
    let port = Arc::new(SerialPort::new(Interrupt::new(|| Ok(())), console.sink()));
    console.connect(port.clone());
    assert!(is_told(&one) && is_told(&other), "there is a port now");
    assert_eq!(
        (one.room(), other.type_in(b"b")),
        (0, 0),
        "the guest has not set RTS"
    );
    let (modem_control, receive) = (4, 0);
    crate::bus::BusDevice::write(&*port, modem_control, &RTS);
    assert!(is_told(&one) && is_told(&other));
    assert_eq!((one.type_in(b"a"), other.type_in(b"b")), (1, 1));
    drop(other);
    let mut read = [0; 2];
    for byte in &mut read {
        crate::bus::BusDevice::read(&*port, receive, std::slice::from_mut(byte));
    }
    assert_eq!(&read, b"ab");
    console.disconnect();
    assert_eq!((one.type_in(b"c"), one.room()), (0, 0), "the guest has ended");
}

#[test]
fn a_bell_rings_once_for_each_reader_that_found_nothing_and_at_the_end() {
    let console = Console::default();
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let rings = || {
        let rings = wait([Some(For::Reading(borrow(&bell)))], Some(Duration::ZERO)).unwrap();
        let _ = bell.read();
        rings == [true]
    };
    let (mut reader, mut bytes) = (console.attach(Pace::Misses), Vec::new());
    print(&console, b"ab");
    assert!(!rings(), "nobody has asked");
    assert_eq!(reader.unread(), 2);
    for byte in [b"a", b"b"] {
        let read = reader.read_at_once(&mut bytes, 1, &bell);
        assert_eq!((read, &bytes[..]), (Some(Read::Bytes { missed: 0 }), &byte[..]));
    }
    assert_eq!(reader.read_at_once(&mut bytes, 1, &bell), None);
    assert!(!rings());
    print(&console, b"cde");
    assert!(rings() && !rings());
    print(&console, &numbered(MUCH));
    let most = 2 * PAST;
    let missed = MUCH as u64 + 3 - PAST as u64;
    assert_eq!(
        reader.read_at_once(&mut bytes, most, &bell),
        Some(Read::Bytes { missed })
    );
    assert_eq!(bytes.len(), PAST);
    assert_eq!(reader.read_at_once(&mut bytes, most, &bell), None);
    console.end();
    assert!(rings());
    assert_eq!(reader.read_at_once(&mut bytes, most, &bell), Some(Read::Ended));
}
