//! A driver of the socket device: its three queues in guest memory, and packets in them (virtio 1.2 sections 2.7 and 5.10).

use std::sync::LazyLock;

use coracle::virtio::vsock::Backend;
use coracle_fuzz::Guest;
use virtio_queue::{Queue, QueueState};
use vm_memory::{Bytes, GuestAddress};

pub const CID: u64 = 3;
pub const HOST_CID: u64 = 2;
pub const HEADER_SIZE: usize = 44;
pub const STREAM: u16 = 1;

/// Operations of packets.
pub const REQUEST: u16 = 1;
pub const RESPONSE: u16 = 2;
pub const RESET: u16 = 3;
pub const SHUTDOWN: u16 = 4;
pub const READ_WRITE: u16 = 5;
pub const CREDIT_UPDATE: u16 = 6;
pub const CREDIT_REQUEST: u16 = 7;

/// Queues.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUES: usize = 3;
/// Descriptors of a queue, and chains that a driver makes of them when it keeps to the rules.
pub const SIZE: u16 = 64;
pub const SLOTS: u16 = 16;
const PIECES: u16 = SIZE / SLOTS;

/// Guest memory: the queues, and the buffer of each slot.
const QUEUE_BYTES: u64 = 0x1000;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
const BUFFERS: u64 = 0x1_0000;
pub const BUFFER: usize = 0x2000;
pub const MEMORY: usize = BUFFERS as usize + 2 * SLOTS as usize * BUFFER;

/// Passes in which all work is done of a driver that keeps to the rules, and some for one that does not.
const ENOUGH: u32 = 1000;
const SOME: u32 = 8;

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;

static GUEST: LazyLock<Guest> = LazyLock::new(|| Guest::new(&[(0, MEMORY)]));

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    pub source_cid: u64,
    pub destination_cid: u64,
    pub source_port: u32,
    pub destination_port: u32,
    pub length: u32,
    pub kind: u16,
    pub operation: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Header {
    fn to_bytes(self) -> Vec<u8> {
        [
            &self.source_cid.to_le_bytes()[..],
            &self.destination_cid.to_le_bytes(),
            &self.source_port.to_le_bytes(),
            &self.destination_port.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.operation.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ]
        .concat()
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let number = |at: usize, size: usize| {
            let bytes = bytes[at..at + size].iter().rev();
            bytes.fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        Self {
            source_cid: number(0, 8),
            destination_cid: number(8, 8),
            source_port: number(16, 4) as u32,
            destination_port: number(20, 4) as u32,
            length: number(24, 4) as u32,
            kind: number(28, 2) as u16,
            operation: number(30, 2) as u16,
            flags: number(32, 4) as u32,
            buf_alloc: number(36, 4) as u32,
            fwd_cnt: number(40, 4) as u32,
        }
    }
}

/// A queue as its driver knows it.
#[derive(Default)]
struct Ring {
    next_available: u16,
    next_used: u16,
    /// How far the device has come.
    served: (u16, u16),
    /// Sizes of the buffers that the device has, by slot.
    given: [Option<usize>; SLOTS as usize],
}

pub struct Driver {
    rings: [Ring; QUEUES],
    /// Whether something is in a queue that a driver may not put there. Nothing is expected of the device then but to survive.
    pub is_wild: bool,
}

impl Driver {
    /// Begins with empty queues, as after a reset.
    pub fn new() -> Self {
        GUEST.discard();
        Self {
            rings: Default::default(),
            is_wild: false,
        }
    }

    fn part(queue: usize, offset: u64) -> GuestAddress {
        GuestAddress(queue as u64 * QUEUE_BYTES + offset)
    }

    fn buffer(queue: usize, slot: u16) -> u64 {
        BUFFERS + (queue as u64 * u64::from(SLOTS) + u64::from(slot)) * BUFFER as u64
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // Writes outside of guest memory fail, which does not matter.
        let _ = GUEST.memory.write(bytes, GuestAddress(address));
    }

    pub fn describe(&self, queue: u8, index: u16, (address, length, flags, next): (u64, u32, u16, u16)) {
        let table = Self::part(usize::from(queue) % QUEUES, 0).0;
        let descriptor = table + 16 * u64::from(index % SIZE);
        self.put(descriptor, &address.to_le_bytes());
        self.put(descriptor + 8, &length.to_le_bytes());
        self.put(descriptor + 12, &flags.to_le_bytes());
        self.put(descriptor + 14, &next.to_le_bytes());
    }

    pub fn offer(&mut self, queue: u8, head: u16, count: u16) {
        let queue = usize::from(queue) % QUEUES;
        let ring = &mut self.rings[queue];
        let slot = u64::from(ring.next_available % SIZE);
        ring.next_available = ring.next_available.wrapping_add(count);
        let index = ring.next_available;
        let available = Self::part(queue, AVAILABLE).0;
        self.put(available + 4 + 2 * slot, &head.to_le_bytes());
        self.put(available + 2, &index.to_le_bytes());
    }

    pub fn poke(&mut self, address: u64, value: u64) {
        self.is_wild = true;
        self.put(address, &value.to_le_bytes());
    }

    /// Gives the device a slot's buffer of `size` bytes, cut in up to four pieces. Returns whether a slot was free.
    fn give(&mut self, queue: usize, size: usize, cut: u16, flags: u16, bytes: &[u8]) -> bool {
        let Some(slot) = self.rings[queue].given.iter().position(Option::is_none) else {
            return false;
        };
        self.rings[queue].given[slot] = Some(size);
        let (slot, mut at) = (slot as u16, 0);
        self.put(Self::buffer(queue, slot), bytes);
        // Each piece but the last one has as many bytes as three bits of `cut` say, times 16, or as many as a header with 1.
        for piece in 0..PIECES {
            let length = match (cut >> (3 * piece) & 7, piece + 1 == PIECES) {
                (0, _) | (_, true) => size - at,
                (1, _) => HEADER_SIZE.min(size - at),
                (count, _) => (16 * usize::from(count)).min(size - at),
            };
            let is_last = at + length == size;
            let next = match is_last {
                true => 0,
                false => F_NEXT,
            };
            let index = slot * PIECES + piece;
            let address = Self::buffer(queue, slot) + at as u64;
            self.describe(
                queue as u8,
                index,
                (address, length as u32, flags | next, index + 1),
            );
            at += length;
            if is_last {
                break;
            }
        }
        self.offer(queue as u8, slot * PIECES, 1);
        true
    }

    /// Gives a buffer for a packet. Returns whether a slot was free.
    pub fn give_buffer(&mut self, size: usize, cut: u16) -> bool {
        self.give(RECEIVE, size.clamp(1, BUFFER), cut, F_WRITE, &[])
    }

    /// Sends a packet. Returns whether a slot was free.
    pub fn send(&mut self, header: &Header, data: &[u8], cut: u16) -> bool {
        let bytes = [&header.to_bytes()[..], data].concat();
        self.give(TRANSMIT, bytes.len(), cut, 0, &bytes)
    }

    /// Whether a slot is free for a packet.
    pub fn can_send(&self) -> bool {
        self.rings[TRANSMIT].given.contains(&None)
    }

    /// Has the device do its work. Returns the packets that it has sent, or none if its driver broke a queue.
    pub fn serve(&mut self, backend: &Backend) -> Option<Vec<(Header, Vec<u8>)>> {
        let queue = |index: usize| {
            let (next_avail, next_used) = self.rings[index].served;
            let state = QueueState {
                max_size: SIZE,
                size: SIZE,
                ready: true,
                desc_table: Self::part(index, 0).0,
                avail_ring: Self::part(index, AVAILABLE).0,
                used_ring: Self::part(index, USED).0,
                next_avail,
                next_used,
                ..Default::default()
            };
            Queue::try_from(state).expect("its addresses are aligned")
        };
        let queues = (0..QUEUES).map(queue).collect();
        let passes = if self.is_wild { SOME } else { ENOUGH };
        let served = match backend.serve_passes(queues, &GUEST.memory, passes) {
            Ok(served) => served,
            Err(error) => {
                assert!(self.is_wild, "a queue in order is broken: {error}");
                return None;
            }
        };
        for position in served.positions {
            let ring = &mut self.rings[usize::from(position.queue)];
            ring.served = (position.next_available, position.next_used);
        }
        if self.is_wild {
            return Some(Vec::new());
        }
        assert!(!served.has_work, "the device is never done");
        let sent = self.take_used(TRANSMIT);
        assert!(sent.iter().all(|(_, length)| *length == 0));
        let received = self.take_used(RECEIVE).into_iter();
        // A buffer without room for a header comes back empty.
        Some(received.filter(|(_, length)| *length > 0).map(packet).collect())
    }

    /// Takes back the slots that the device has used, with the bytes that it wrote there.
    fn take_used(&mut self, queue: usize) -> Vec<(u64, usize)> {
        let ring = &mut self.rings[queue];
        let used = Self::part(queue, USED).0;
        let mut taken = Vec::new();
        while ring.next_used != ring.served.1 {
            let element = used + 4 + 8 * u64::from(ring.next_used % SIZE);
            ring.next_used = ring.next_used.wrapping_add(1);
            let [head, length]: [u32; 2] = GUEST.memory.read_obj(GuestAddress(element)).expect("it is there");
            let slot = head as u16 / PIECES;
            let size = ring.given[usize::from(slot)]
                .take()
                .expect("the device has the slot");
            assert!(length as usize <= size, "{length} of {size} bytes");
            taken.push((Self::buffer(queue, slot), length as usize));
        }
        taken
    }
}

/// The packet in a buffer.
fn packet((buffer, length): (u64, usize)) -> (Header, Vec<u8>) {
    let bytes = GUEST.bytes(buffer, length);
    let (header, data) = bytes.split_at(HEADER_SIZE);
    let header = Header::from_bytes(header);
    assert_eq!(header.length as usize, data.len());
    assert_eq!((header.destination_cid, header.kind), (CID, STREAM));
    (header, data.to_vec())
}
