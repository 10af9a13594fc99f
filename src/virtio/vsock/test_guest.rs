//! A driver of the socket device for tests, and a program of the guest that sends and receives packets by it.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::packet::{HEADER_SIZE, HOST_CID, Header, Operation, Ports, TYPE_STREAM};
use super::queues::{EVENT, RECEIVE, TRANSMIT};
use super::{Backend, Vsock};
use crate::config::{self, Confine};
use crate::virtio::test_driver::{Descriptor, Driver, NEXT, VERSION_1, WRITE};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_READY;

pub const CID: u32 = 3;
/// What the guest says that it holds for a connection.
pub const GRANT: u32 = 64 << 10;
/// A time that is exceeded only by a hang.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How many buffers the guest gives for packets, and their size.
pub const BUFFERS: u16 = 32;
pub const BUFFER_SIZE: usize = 4096;
/// Guest addresses.
const RINGS: u64 = 0x1000;
const RING_SIZE: u64 = 0x3000;
const RECEIVE_BUFFERS: u64 = 0x1_0000;
const TRANSMIT_BUFFER: u64 = 0x8_0000;
const EVENT_BUFFERS: u64 = 0xf_0000;

/// A queue as the driver sees it.
pub struct Ring {
    index: u16,
    size: u16,
    next_available: u16,
    next_used: u16,
}

impl Ring {
    fn new(index: u16, size: u16) -> Self {
        Self {
            index,
            size,
            next_available: 0,
            next_used: 0,
        }
    }

    fn parts(&self) -> [u64; 3] {
        let descriptors = RINGS + RING_SIZE * u64::from(self.index);
        [descriptors, descriptors + 0x1000, descriptors + 0x2000]
    }

    pub fn descriptors(&self) -> u64 {
        self.parts()[0]
    }

    /// Makes the chain at `head` available without a notification.
    pub fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let available = self.parts()[1];
        let slot = u64::from(self.next_available % self.size);
        memory
            .write_obj(head, GuestAddress(available + 4 + 2 * slot))
            .unwrap();
        self.next_available = self.next_available.wrapping_add(1);
        let index = GuestAddress(available + 2);
        memory
            .store(self.next_available, index, std::sync::atomic::Ordering::SeqCst)
            .unwrap();
    }

    fn used_index(&self, memory: &GuestMemoryMmap) -> u16 {
        let index = GuestAddress(self.parts()[2] + 2);
        memory.load(index, std::sync::atomic::Ordering::SeqCst).unwrap()
    }

    /// Asks for an interrupt at the next used chain. Returns whether a chain was used before that.
    fn want_interrupt(&self, memory: &GuestMemoryMmap) -> bool {
        let event = GuestAddress(self.parts()[1] + 4 + 2 * u64::from(self.size));
        let order = std::sync::atomic::Ordering::SeqCst;
        memory.store(self.next_used, event, order).unwrap();
        std::sync::atomic::fence(order);
        self.used_index(memory) != self.next_used
    }

    /// The next used element: head and length.
    pub fn take_used(&mut self, memory: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let used = self.parts()[2];
        if self.used_index(memory) == self.next_used {
            return None;
        }
        let element = used + 4 + 8 * u64::from(self.next_used % self.size);
        self.next_used = self.next_used.wrapping_add(1);
        let [head, length]: [u32; 2] = memory.read_obj(GuestAddress(element)).unwrap();
        Some((head as u16, length))
    }
}

pub struct Guest {
    pub driver: Driver,
    pub receive: Ring,
    pub transmit: Ring,
    pub event: Ring,
}

/// A device's part on the host, without a socket.
pub fn backend() -> Arc<Backend> {
    Arc::new(Backend::open(&config::Vsock::default(), None, Confine::Auto).unwrap())
}

/// One with a socket in a directory of its own.
pub fn backend_with_socket() -> (Arc<Backend>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let vsock = config::Vsock {
        path: Some(folder.path().join("socket")),
        cid: CID,
    };
    (
        Arc::new(Backend::open(&vsock, None, Confine::Auto).unwrap()),
        folder,
    )
}

pub fn patient(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Two ends of a connection on the host: a program's, and the one for the device.
pub fn pair() -> (UnixStream, UnixStream) {
    let (program, device) = UnixStream::pair().unwrap();
    (patient(program), device)
}

impl Guest {
    pub fn start(backend: &Arc<Backend>) -> Self {
        let mut guest = Self {
            driver: Driver::new(Box::new(Vsock::new(backend.clone()))),
            receive: Ring::new(RECEIVE, BUFFERS),
            transmit: Ring::new(TRANSMIT, 16),
            event: Ring::new(EVENT, 8),
        };
        guest.initialize(VERSION_1);
        guest.give_buffers();
        guest
    }

    /// Makes the device work for this driver, which gives no buffers yet.
    pub fn initialize(&mut self, features: u64) {
        assert!(self.driver.negotiate(features));
        for ring in [&mut self.receive, &mut self.transmit, &mut self.event] {
            *ring = Ring::new(ring.index, ring.size);
            let zeroes = [0; RING_SIZE as usize];
            self.driver.put(&zeroes, ring.parts()[0]);
            let (index, size) = (ring.index.into(), ring.size.into());
            self.driver.describe_queue(index, size, ring.parts());
            self.driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        }
        self.driver.driver_ok();
    }

    pub fn notify(&self, queue: u16) {
        self.driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue.into());
    }

    /// Gives all buffers for packets.
    pub fn give_buffers(&mut self) {
        (0..BUFFERS).for_each(|index| self.give_buffer(index));
    }

    /// Gives a buffer for a packet: a descriptor for the header and the data.
    pub fn give_buffer(&mut self, index: u16) {
        let descriptor = (Self::buffer(index), BUFFER_SIZE as u32, WRITE, 0);
        let table = self.receive.descriptors();
        self.driver.describe(table, index, descriptor);
        self.receive.offer(&self.driver.memory, index);
        self.notify(RECEIVE);
    }

    fn buffer(index: u16) -> u64 {
        RECEIVE_BUFFERS + BUFFER_SIZE as u64 * u64::from(index)
    }

    pub fn give_event_buffer(&mut self) {
        let table = self.event.descriptors();
        self.driver.describe(table, 0, (EVENT_BUFFERS, 4, WRITE, 0));
        self.driver.put(&[0xff; 4], EVENT_BUFFERS);
        self.event.offer(&self.driver.memory, 0);
        self.notify(EVENT);
    }

    /// Waits for an event.
    pub fn wait_for_event(&mut self) -> [u8; 4] {
        loop {
            if let Some((0, 4)) = self.event.take_used(&self.driver.memory) {
                return self.driver.bytes(EVENT_BUFFERS, 4).try_into().unwrap();
            }
            self.wait();
        }
    }

    /// Waits until the device has used something.
    fn wait(&self) {
        let rings = [&self.receive, &self.transmit, &self.event];
        let has_used = rings.map(|ring| ring.want_interrupt(&self.driver.memory));
        if !has_used.contains(&true) {
            self.driver.wait();
        }
    }

    /// The next packet, if there is one.
    pub fn poll(&mut self) -> Option<(Header, Vec<u8>)> {
        let (index, length) = self.receive.take_used(&self.driver.memory)?;
        let bytes = self.driver.bytes(Self::buffer(index), length as usize);
        let (header, data) = bytes.split_first_chunk::<HEADER_SIZE>().unwrap();
        let header = Header::from_bytes(header);
        assert_eq!(header.length as usize, data.len());
        assert_eq!(
            (header.destination_cid, header.socket_type),
            (CID.into(), TYPE_STREAM)
        );
        let data = data.to_vec();
        self.give_buffer(index);
        Some((header, data))
    }

    /// Waits for the next packet.
    pub fn next(&mut self) -> (Header, Vec<u8>) {
        loop {
            match self.poll() {
                Some(packet) => return packet,
                None => self.wait(),
            }
        }
    }

    /// Waits for the next packet, which is for this operation.
    pub fn expect(&mut self, operation: Operation) -> (Header, Vec<u8>) {
        let (header, data) = self.next();
        assert_eq!(header.operation(), Some(operation), "{header:?}");
        (header, data)
    }

    /// Waits for a packet of data.
    pub fn expect_data(&mut self) -> Vec<u8> {
        self.expect(Operation::ReadWrite).1
    }

    /// A packet of the guest.
    pub fn packet(ports: Ports, operation: Operation) -> Header {
        Header {
            source_cid: CID.into(),
            destination_cid: HOST_CID,
            source_port: ports.guest,
            destination_port: ports.host,
            length: 0,
            socket_type: TYPE_STREAM,
            operation: operation as u16,
            flags: 0,
            buf_alloc: GRANT,
            fwd_cnt: 0,
        }
    }

    /// Sends a packet, and waits until the device has taken it.
    pub fn send(&mut self, header: Header, data: &[u8]) {
        self.driver.put(&header.to_bytes(), TRANSMIT_BUFFER);
        self.driver.put(data, TRANSMIT_BUFFER + HEADER_SIZE as u64);
        let chain: [Descriptor; 2] = [
            (TRANSMIT_BUFFER, HEADER_SIZE as u32, NEXT, 1),
            (TRANSMIT_BUFFER + HEADER_SIZE as u64, data.len() as u32, 0, 0),
        ];
        self.send_chain(&chain);
    }

    /// Sends a packet that is laid out by these descriptors.
    pub fn send_chain(&mut self, chain: &[Descriptor]) {
        let table = self.transmit.descriptors();
        for (index, descriptor) in (0..).zip(chain) {
            self.driver.describe(table, index, *descriptor);
        }
        self.transmit.offer(&self.driver.memory, 0);
        self.notify(TRANSMIT);
        while self.transmit.take_used(&self.driver.memory).is_none() {
            self.wait();
        }
    }

    /// Sends a packet without data.
    pub fn tell(&mut self, ports: Ports, operation: Operation) {
        self.send(Self::packet(ports, operation), &[]);
    }

    pub fn tell_end(&mut self, ports: Ports, flags: u32) {
        let header = Header {
            flags,
            ..Self::packet(ports, Operation::Shutdown)
        };
        self.send(header, &[]);
    }

    pub fn write(&mut self, ports: Ports, data: &[u8]) {
        let header = Header {
            length: data.len() as u32,
            ..Self::packet(ports, Operation::ReadWrite)
        };
        self.send(header, data);
    }

    /// Accepts the next connection.
    pub fn accept(&mut self) -> Ports {
        let (header, _) = self.expect(Operation::Request);
        let ports = Ports {
            host: header.source_port,
            guest: header.destination_port,
        };
        self.tell(ports, Operation::Response);
        ports
    }

    /// A connection that Coracle has made to `port`, and the program's end of it.
    pub fn connected(&mut self, backend: &Backend, port: u32) -> (Ports, UnixStream) {
        let (program, device) = pair();
        backend.dial(port, device).unwrap();
        (self.accept(), program)
    }

    /// Makes sure that the device has sent everything that it is going to send for what it has been given so far, and that this is
    /// nothing: it is asked something, and the answer is the next packet.
    pub fn expect_silence(&mut self) {
        let nobody = Ports {
            host: 0x1234,
            guest: 0x5678,
        };
        self.tell(nobody, Operation::CreditRequest);
        let (header, _) = self.expect(Operation::Reset);
        assert_eq!((header.source_port, header.destination_port), (0x1234, 0x5678));
    }
}
