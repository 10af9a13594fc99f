//! A guest that does anything to the serial port's registers, and a person who types meanwhile.
#![no_main]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use coracle::bus::Bus;
use coracle::devices::serial::SerialPort;
use coracle::devices::sink::Sink;
use coracle::interrupt::Interrupt;
use coracle::x86::layout::SERIAL_PORT_COUNT;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// Registers and bits of the 16550 data sheet.
const DATA: u8 = 0;
const LCR: u8 = 3;
const MCR: u8 = 4;
const LSR: u8 = 5;
const LCR_DLAB: u8 = 1 << 7;
const MCR_RTS: u8 = 1 << 1;
const MCR_LOOP: u8 = 1 << 4;
const LSR_DATA_READY: u8 = 1;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Read { port: u8, width: u8 },
    Write { port: u8, value: u8 },
    WriteWide { port: u8, values: [u8; 8], width: u8 },
    Type(&'a [u8]),
}

#[derive(Default)]
struct Collected {
    output: Mutex<Vec<u8>>,
    takes_input: AtomicBool,
}

impl Sink for Collected {
    fn wait_for_room(&self) {}
    fn release(&self) {}
    fn hold(&self) {}
    fn put(&self, byte: u8) {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).push(byte);
    }

    fn pause(&self) {}

    fn takes_input(&self) {
        self.takes_input.store(true, Ordering::SeqCst);
    }
}

/// What the port must do, as a model.
#[derive(Default)]
struct Model {
    line_control: u8,
    modem_control: u8,
    output: Vec<u8>,
    input: VecDeque<u8>,
    /// In loopback the guest talks to itself; what it then reads is no input.
    looped: bool,
}

impl Model {
    fn write(&mut self, register: u8, value: u8) {
        match register {
            DATA if self.line_control & LCR_DLAB == 0 && self.modem_control & MCR_LOOP == 0 => {
                self.output.push(value)
            }
            LCR => self.line_control = value,
            MCR => {
                self.modem_control = value;
                self.looped |= value & MCR_LOOP != 0;
            }
            _ => (),
        }
    }

    fn read(&mut self, register: u8, value: u8) {
        if register == DATA && self.line_control & LCR_DLAB == 0 && !self.looped {
            assert_eq!(
                value,
                self.input.pop_front().unwrap_or(0),
                "input changed on its way"
            );
        }
    }

    /// In loopback mode RTS does not reach its pin.
    fn takes_input(&self) -> bool {
        self.modem_control & (MCR_RTS | MCR_LOOP) == MCR_RTS
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let sink = Arc::new(Collected::default());
    let interrupt = Interrupt::new(|| Ok(()));
    let port = Arc::new(SerialPort::new(interrupt, sink.clone()));
    let mut bus = Bus::default();
    bus.attach(0, SERIAL_PORT_COUNT.into(), port.clone())
        .expect("an empty bus");
    let mut model = Model::default();
    let mut refused = false;

    for step in steps {
        match step {
            Step::Read { port, width } => read(&bus, &mut model, port, width),
            Step::Write { port, value } => write(&bus, &mut model, port, &[value]),
            Step::WriteWide { port, values, width } => {
                write(&bus, &mut model, port, &values[..usize::from(width % 9)])
            }
            Step::Type(bytes) => {
                let taken = port.receive(bytes);
                assert!(
                    taken == 0 || model.takes_input(),
                    "input went around flow control"
                );
                model.input.extend(&bytes[..taken]);
                // As in the console: bytes that the port refused wait until it says that it has room.
                refused = taken < bytes.len();
                sink.takes_input.store(false, Ordering::SeqCst);
            }
        }
        if refused && sink.takes_input.swap(false, Ordering::SeqCst) {
            refused = false;
        }
        let mut status = [0];
        bus.read(LSR.into(), &mut status);
        assert!(
            !refused || !model.takes_input() || status[0] & LSR_DATA_READY != 0,
            "input waits for ever: the port has room and does not say so"
        );
    }
    let output = sink.output.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(*output == model.output, "output changed on its way");
});

fn read(bus: &Bus, model: &mut Model, port: u8, width: u8) {
    let (port, mut data) = (port % 8, vec![0; usize::from(width % 9)]);
    bus.read(port.into(), &mut data);
    if inside(port, &data) {
        (port..)
            .zip(data)
            .for_each(|(register, value)| model.read(register, value));
    }
}

fn write(bus: &Bus, model: &mut Model, port: u8, data: &[u8]) {
    let port = port % 8;
    bus.write(port.into(), data);
    if inside(port, data) {
        (port..)
            .zip(data)
            .for_each(|(register, &value)| model.write(register, value));
    }
}

fn inside(port: u8, data: &[u8]) -> bool {
    usize::from(port) + data.len() <= usize::from(SERIAL_PORT_COUNT)
}
