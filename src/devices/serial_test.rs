use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;

const RBR: u64 = 0;

#[derive(Default)]
struct Collected {
    output: Mutex<Vec<u8>>,
    pauses: AtomicUsize,
    takes_input: AtomicBool,
}

impl Collected {
    /// Whether the port has said that it takes input, since this was last asked.
    fn is_told_of_room(&self) -> bool {
        self.takes_input.swap(false, Ordering::SeqCst)
    }
}

impl Sink for Collected {
    fn wait_for_room(&self) {}
    fn release(&self) {}
    fn hold(&self) {}
    fn put(&self, byte: u8) {
        self.output.lock().unwrap().push(byte);
    }
    fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }
    fn takes_input(&self) {
        self.takes_input.store(true, Ordering::SeqCst);
    }
}

fn port() -> (SerialPort, Arc<Collected>, EventFd) {
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let edge = line.try_clone().unwrap();
    let interrupt = Interrupt::new(move || edge.write(1));
    let sink = Arc::new(Collected::default());
    (SerialPort::new(interrupt, sink.clone()), sink, line)
}

fn read(port: &SerialPort, offset: u64) -> u8 {
    let mut data = [0xff];
    port.read(offset, &mut data);
    data[0]
}

#[test]
fn what_the_guest_transmits_reaches_the_sink() {
    let (port, sink, _) = port();
    b"boat".iter().for_each(|byte| port.write(THR, &[*byte]));
    assert_eq!(*sink.output.lock().unwrap(), b"boat");
}

#[test]
fn input_beyond_the_fifo_waits_until_the_guest_has_read() {
    let (port, sink, interrupt) = port();
    port.write(IER.into(), &[1]);
    port.write(MCR, &[MCR_RTS]);
    let input: Vec<u8> = (0..200).collect();
    let mut offered = &input[..];
    let mut received = Vec::new();
    while received.len() < input.len() {
        let taken = port.receive(offered);
        offered = &offered[taken..];
        assert!(interrupt.read().is_ok(), "the guest is told about input");
        while read(&port, LSR.into()) & 1 != 0 {
            received.push(read(&port, RBR));
        }
        assert_eq!(
            sink.is_told_of_room(),
            !offered.is_empty(),
            "whoever waits is told about room"
        );
    }
    assert_eq!(received, input);
}

/// Linux reads 256 bytes at most and then asks for what else there is; the FIFO was filled up meanwhile.
#[test]
fn input_is_told_of_as_long_as_some_is_in_the_fifo() {
    let (port, _, _) = port();
    port.write(IER.into(), &[1]);
    port.write(MCR, &[MCR_RTS]);
    assert_eq!(port.receive(b"ab"), 2);
    assert_eq!(read(&port, IIR.into()) & 0xf, 4);
    assert_eq!(read(&port, RBR), b'a');
    assert_eq!(read(&port, IIR.into()) & 0xf, 4, "b is still there");
    assert_eq!(read(&port, RBR), b'b');
    assert_eq!(read(&port, IIR.into()) & 0xf, 1, "nothing is left");
}

#[test]
fn a_guest_gets_nothing_until_it_sets_rts_outside_of_loopback() {
    let (port, sink, _) = port();
    assert_eq!(port.receive(b"a"), 0);
    port.write(MCR, &[MCR_RTS | MCR_LOOP]);
    assert_eq!(port.receive(b"a"), 0);
    port.write(MCR, &[MCR_RTS]);
    assert!(sink.is_told_of_room());
    assert_eq!(port.receive(b"a"), 1);
    port.write(MCR, &[0]);
    assert_eq!(port.receive(b"b"), 0);
    assert!(!sink.is_told_of_room());
    port.write(MCR, &[MCR_RTS]);
    assert!(sink.is_told_of_room());
    assert_eq!(port.receive(b"b"), 1);
}

proptest! {
    #[test]
    fn no_access_panics_and_input_is_never_taken_beyond_the_fifo(
        accesses in prop::collection::vec((0u64..8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..200)
    ) {
        let (port, _, _) = port();
        for (offset, write, mut data) in accesses {
            prop_assert!(port.receive(&data) <= data.len());
            if write { port.write(offset, &data) } else { port.read(offset, &mut data) }
        }
    }
}

#[test]
fn a_line_that_ends_and_a_look_at_what_is_pending_are_pauses_and_a_byte_is_none() {
    let (port, sink, _interrupt) = port();
    let pauses = || sink.pauses.load(Ordering::Relaxed);
    port.write(THR, b"a");
    assert_eq!(pauses(), 0);
    port.write(THR, b"\n");
    assert_eq!(pauses(), 1);
    port.read(u64::from(IIR), &mut [0]);
    assert_eq!(pauses(), 2);
    port.read(u64::from(LSR), &mut [0]);
    assert_eq!(pauses(), 2);
}

#[test]
fn there_is_room_for_as_much_input_as_is_then_taken() {
    let (port, sink, _) = port();
    assert_eq!(port.room_for_input(), 0);
    assert!(!sink.is_told_of_room(), "nothing has changed");
    port.write(MCR, &[MCR_RTS]);
    assert!(sink.is_told_of_room(), "the thread that asked is told");
    let room = port.room_for_input();
    assert_eq!(room, 64);
    assert_eq!(port.receive(&[b'a'; 50]), 50);
    assert_eq!(port.room_for_input(), room - 50);
    assert_eq!(port.receive(&[b'a'; 50]), room - 50);
    assert_eq!(port.room_for_input(), 0);
    (0..room).for_each(|_| _ = read(&port, RBR));
    assert!(sink.is_told_of_room(), "the thread that asked is told");
    assert_eq!(port.room_for_input(), room);
}

/// What happens to a port.
#[derive(Clone, Debug)]
enum Step {
    Read(u64),
    Write(u64, u8),
    Receive(Vec<u8>),
    MakeAnew,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8u64).prop_map(Step::Read),
        3 => (0..8u64, any::<u8>()).prop_map(|(offset, value)| Step::Write(offset, value)),
        1 => Just(Step::Write(MCR, MCR_RTS)),
        1 => Just(Step::Write(LCR.into(), 0)),
        2 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Step::Receive),
        2 => Just(Step::MakeAnew),
    ]
}

proptest! {
    #[test]
    fn a_port_made_anew_answers_as_one_that_never_stopped(steps in prop::collection::vec(step(), 0..150)) {
        let (mut stops, output, line) = port();
        let (never_stops, expected, _) = port();
        for step in steps {
            match step {
                Step::Read(offset) => prop_assert_eq!(read(&stops, offset), read(&never_stops, offset)),
                Step::Write(offset, value) => {
                    stops.write(offset, &[value]);
                    never_stops.write(offset, &[value]);
                }
                Step::Receive(bytes) => prop_assert_eq!(stops.receive(&bytes), never_stops.receive(&bytes)),
                Step::MakeAnew => {
                    let edge = line.try_clone().unwrap();
                    let interrupt = Interrupt::new(move || edge.write(1));
                    stops = SerialPort::from_state(&stops.state(), interrupt, output.clone()).unwrap();
                }
            }
            prop_assert_eq!(stops.state(), never_stops.state());
        }
        prop_assert_eq!(&*output.output.lock().unwrap(), &*expected.output.lock().unwrap());
    }
}

#[test]
fn a_port_made_anew_interrupts_if_it_had_something_to_tell() {
    let (port, sink, line) = port();
    port.write(IER.into(), &[IER_RDA]);
    port.write(MCR, &[MCR_RTS]);
    assert_eq!(port.receive(b"a"), 1);
    let _ = line.read();
    let state = port.state();
    let edge = line.try_clone().unwrap();
    let anew = SerialPort::from_state(&state, Interrupt::new(move || edge.write(1)), sink.clone()).unwrap();
    assert!(line.read().is_ok());
    assert_eq!(read(&anew, RBR), b'a');
    let too_much = SerialState {
        received: vec![0; 65],
        ..state
    };
    assert!(SerialPort::from_state(&too_much, Interrupt::new(|| Ok(())), sink).is_err());
}
