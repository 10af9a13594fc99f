//! The 16550A serial port: vm-superio's registers between the guest and two byte streams.
//!
//! No byte is lost in either direction. Output waits, outside of the port's lock, until its sink has room.
//! Input is taken only as far as the receive FIFO has room and while the guest has RTS set, as by a peer with RTS/CTS
//! flow control. A driver that starts reads the FIFO and throws away what it finds. It sets RTS only afterwards, so what
//! is typed early waits outside of the FIFO and is not lost.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Serial;
use vm_superio::serial::SerialEvents;

use super::sink::Sink;
use crate::bus::BusDevice;
use crate::interrupt::Interrupt;

/// Register offsets (16550 data sheet).
const THR: u64 = 0;
const IER: u8 = 1;
const IER_RDA: u8 = 1 << 0;
const IIR: u8 = 2;
const IIR_NONE: u8 = 1 << 0;
const IIR_RDA: u8 = 1 << 2;
const LCR: u8 = 3;
const LCR_DLAB: u8 = 1 << 7;
const MCR: u64 = 4;
const MCR_RTS: u8 = 1 << 1;
const MCR_LOOP: u8 = 1 << 4;
const LSR: u8 = 5;
const LSR_DATA_READY: u8 = 1 << 0;

/// Sink as the writer that vm-superio asks for.
struct SinkWriter(Arc<dyn Sink>);

impl Write for SinkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|&byte| self.0.put(byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells the sink when the port takes input that it refused before.
struct Room {
    sink: Arc<dyn Sink>,
    /// Input was refused since the sink was last told.
    wanted: AtomicBool,
}

impl Room {
    fn of(sink: &Arc<dyn Sink>) -> Arc<Self> {
        Arc::new(Self {
            sink: sink.clone(),
            wanted: AtomicBool::new(false),
        })
    }

    fn made(&self) {
        if self.wanted.swap(false, Ordering::AcqRel) {
            self.sink.takes_input();
        }
    }
}

impl SerialEvents for Room {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.made();
    }
}

/// The port's registers.
struct Port(Serial<Interrupt, Arc<Room>, SinkWriter>);

impl Port {
    /// Whether the guest has RTS set. In loopback the pins are disconnected.
    fn requests_to_send(&mut self) -> bool {
        self.0.read(MCR as u8) & (MCR_RTS | MCR_LOOP) == MCR_RTS
    }

    /// How many bytes of input the port takes now.
    fn room(&mut self) -> usize {
        match self.requests_to_send() {
            true => self.0.fifo_capacity(),
            false => 0,
        }
    }

    /// The FIFO holds input, and the guest wants an interrupt for it. The data sheet's "received data available" lasts
    /// as long as there is input, but vm-superio takes it back with the first byte that is read. A driver that reads a
    /// limited number of bytes for each interrupt would then leave the rest in the FIFO, and once the FIFO is full no
    /// further byte would come to interrupt it again.
    fn owes_input(&mut self) -> bool {
        // With DLAB set, IER's address is another register's.
        self.0.read(LCR) & LCR_DLAB == 0
            && self.0.read(IER) & IER_RDA != 0
            && self.0.read(LSR) & LSR_DATA_READY != 0
    }
}

/// What a port holds: its registers, by their names in the data sheet, and the input that the guest has not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialState {
    pub divisor_latch: u16,
    pub interrupt_enable: u8,
    pub interrupt_identification: u8,
    pub line_control: u8,
    pub line_status: u8,
    pub modem_control: u8,
    pub modem_status: u8,
    pub scratch: u8,
    /// The receive FIFO, the oldest byte first: 64 bytes at most.
    pub received: Vec<u8>,
}

/// A 16550A on eight addresses.
pub struct SerialPort {
    port: Mutex<Port>,
    sink: Arc<dyn Sink>,
    room: Arc<Room>,
}

impl SerialPort {
    /// A port as after power-on.
    pub fn new(interrupt: Interrupt, sink: Arc<dyn Sink>) -> Self {
        let room = Room::of(&sink);
        let registers = Serial::with_events(interrupt, room.clone(), SinkWriter(sink.clone()));
        Self {
            port: Mutex::new(Port(registers)),
            sink,
            room,
        }
    }

    /// A port that goes on where another one was. It raises its interrupt if one is pending. Fails if the state is of no port:
    /// its FIFO holds too much.
    pub fn from_state(state: &SerialState, interrupt: Interrupt, sink: Arc<dyn Sink>) -> io::Result<Self> {
        let room = Room::of(&sink);
        let [low, high] = state.divisor_latch.to_le_bytes();
        let registers = vm_superio::SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.received.clone(),
        };
        let registers = Serial::from_state(&registers, interrupt, room.clone(), SinkWriter(sink.clone()))
            .map_err(|error| io::Error::other(format!("serial port: {error}")))?;
        Ok(Self {
            port: Mutex::new(Port(registers)),
            sink,
            room,
        })
    }

    /// What the port holds. No vCPU may use it meanwhile, or the state is of no one moment.
    pub fn state(&self) -> SerialState {
        let state = self.lock().0.state();
        SerialState {
            divisor_latch: u16::from_le_bytes([state.baud_divisor_low, state.baud_divisor_high]),
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }

    /// Hands input to the guest and returns how many bytes it took; [`Sink::takes_input`] tells when to offer the rest.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut port = self.lock();
        let count = bytes.len().min(port.room());
        let taken = match port.0.enqueue_raw_bytes(&bytes[..count]) {
            Ok(taken) => taken,
            Err(error) => {
                log::debug!("serial port: {error}");
                0
            }
        };
        if taken < bytes.len() {
            self.room.wanted.store(true, Ordering::Release);
        }
        taken
    }

    /// Lets vCPUs go on that wait for the reader of the output, so that they can be stopped.
    pub fn release(&self) {
        self.sink.release();
    }

    /// Lets vCPUs wait for the reader of the output again.
    pub fn hold(&self) {
        self.sink.hold();
    }

    /// How many bytes [`SerialPort::receive`] would take now. If none, [`Sink::takes_input`] tells when that changes.
    pub fn room_for_input(&self) -> usize {
        let mut port = self.lock();
        let room = port.room();
        if room == 0 {
            // While the port is locked: the guest cannot make room before this is known.
            self.room.wanted.store(true, Ordering::Release);
        }
        room
    }

    fn lock(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut port = self.lock();
        // Registers are a byte wide; a wider access reads its neighbours too, as on the ISA bus.
        for (register, byte) in (offset as u8..).zip(data) {
            *byte = port.0.read(register);
            if register == IIR && port.owes_input() {
                *byte = *byte & !IIR_NONE | IIR_RDA;
            }
        }
        drop(port);
        if offset == u64::from(IIR) {
            self.sink.pause();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == THR {
            self.sink.wait_for_room();
        }
        let mut port = self.lock();
        for (register, &byte) in (offset..).zip(data) {
            if let Err(error) = port.0.write(register as u8, byte) {
                log::debug!("serial port: {error}");
            }
            if register == MCR && port.requests_to_send() {
                self.room.made();
            }
        }
        drop(port);
        if offset == THR && data.contains(&b'\n') {
            self.sink.pause();
        }
    }
}

#[cfg(test)]
#[path = "serial_test.rs"]
mod tests;
