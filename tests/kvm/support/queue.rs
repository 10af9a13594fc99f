//! Queues as a driver lays them out in memory (virtio 1.2 section 2.7), made on the host and carried into the guest as
//! its data. The guest's macro `start_disk` finds the addresses at the end.

use super::elf::DATA;

const DESCRIPTORS: u64 = DATA;
const AVAILABLE: u64 = DATA + 0x1000;
const USED: u64 = DATA + 0x2000;
/// A request's header, data and status.
pub const HEADER: u64 = DATA + 0x3000;
pub const BUFFER: u64 = DATA + 0x4000;
pub const STATUS: u64 = DATA + 0x5000;
const REGISTERS: u64 = DATA + 0x6000;
const END: u64 = DATA + 0x7000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Virtio 1.2 section 5.2.6: types of requests, and what became of them.
pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const GET_ID: u32 = 8;
pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;
/// A status that no device writes.
pub const UNTOUCHED: u8 = 0x5a;

#[derive(Clone, Copy)]
pub struct Descriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

/// Guest memory from [`DATA`] on.
pub struct Queue(Vec<u8>);

impl Queue {
    /// A queue of 8 without requests.
    pub fn empty() -> Self {
        let mut queue = Self(vec![0; (END - DATA) as usize]);
        queue.place([DESCRIPTORS, AVAILABLE, USED], 8);
        queue.put(STATUS, &[UNTOUCHED]);
        queue
    }

    /// One request of 512 bytes, in the three descriptors that every driver uses.
    pub fn request(kind: u32, sector: u64, data: &[u8]) -> Self {
        let mut queue = Self::empty();
        queue.put(HEADER, &kind.to_le_bytes());
        queue.put(HEADER + 8, &sector.to_le_bytes());
        queue.put(BUFFER, data);
        let data_flags = if kind == OUT { NEXT } else { NEXT | WRITE };
        queue.chain(&[
            Descriptor {
                address: HEADER,
                length: 16,
                flags: NEXT,
                next: 1,
            },
            Descriptor {
                address: BUFFER,
                length: 512,
                flags: data_flags,
                next: 2,
            },
            Descriptor {
                address: STATUS,
                length: 1,
                flags: WRITE,
                next: 0,
            },
        ]);
        queue.offer(&[0]);
        queue
    }

    /// The descriptor table.
    pub fn chain(&mut self, descriptors: &[Descriptor]) -> &mut Self {
        for (index, descriptor) in (0..).zip(descriptors) {
            self.put_descriptor(index, *descriptor);
        }
        self
    }

    /// One entry of that table.
    pub fn put_descriptor(&mut self, index: u64, descriptor: Descriptor) {
        let address = DESCRIPTORS + 16 * index;
        self.put(address, &descriptor.address.to_le_bytes());
        self.put(address + 8, &descriptor.length.to_le_bytes());
        self.put(address + 12, &descriptor.flags.to_le_bytes());
        self.put(address + 14, &descriptor.next.to_le_bytes());
    }

    /// Makes the chains that begin at these descriptors available.
    pub fn offer(&mut self, heads: &[u16]) -> &mut Self {
        self.available_index(heads.len() as u16);
        for (address, head) in (AVAILABLE + 4..).step_by(2).zip(heads) {
            self.put(address, &head.to_le_bytes());
        }
        self
    }

    pub fn available_index(&mut self, index: u16) -> &mut Self {
        self.put(AVAILABLE + 2, &index.to_le_bytes());
        self
    }

    /// Sets the addresses and the size that the driver tells the device, which may differ from where the queue is.
    pub fn place(&mut self, addresses: [u64; 3], size: u32) -> &mut Self {
        for (at, address) in (REGISTERS..).step_by(8).zip(addresses) {
            self.put(at, &address.to_le_bytes());
        }
        self.put(REGISTERS + 24, &size.to_le_bytes());
        self
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        let offset = (address - DATA) as usize;
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl From<&mut Queue> for Vec<u8> {
    fn from(queue: &mut Queue) -> Self {
        queue.0.clone()
    }
}

impl From<Queue> for Vec<u8> {
    fn from(queue: Queue) -> Self {
        queue.0
    }
}
