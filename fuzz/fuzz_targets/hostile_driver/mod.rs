//! A virtio driver that means no good, one step at a time (virtio 1.2 sections 2.7, 3.1 and 4.2).

use std::os::fd::AsRawFd;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use coracle::bus::BusDevice;
use coracle::interrupt::Interrupt;
use coracle::virtio::VirtioDevice;
use coracle::virtio::mmio::MmioTransport;
use coracle_fuzz::Guest;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Guest memory: two ranges with a hole between them.
const LOW: u64 = 0x1_0000;
const HIGH: u64 = 0x2_0000;
const HIGH_SIZE: u64 = 0x4000;

/// Where a driver that starts in order has its queue, an indirect table and its buffers.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const INDIRECT: u64 = 0x4000;
const BUFFERS: u64 = 0x5000;
const QUEUE_SIZE: u16 = 16;

/// Descriptor flags.
const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;

static MEMORY: LazyLock<(Guest, Arc<GuestMemoryMmap>)> = LazyLock::new(|| {
    let guest = Guest::new(&[(0, LOW as usize), (HIGH, HIGH_SIZE as usize)]);
    let memory = Arc::new(guest.memory.clone());
    (guest, memory)
});

#[derive(Arbitrary, Debug)]
pub enum Step {
    /// Of a whole register.
    Write {
        register: u8,
        value: u32,
    },
    WriteAny {
        offset: u16,
        value: u64,
        width: u8,
    },
    ReadAny {
        offset: u16,
        width: u8,
    },
    /// Section 3.1.1 in order, except perhaps for features and queue size.
    Start {
        features: u64,
        size: u16,
    },
    Reset,
    Notify,
    /// `struct virtio_blk_req` up to its data (section 5.2.6).
    Header {
        slot: u8,
        kind: u32,
        sector: u64,
    },
    Describe {
        table: Table,
        index: u8,
        address: Place,
        length: u32,
        flags: u16,
        next: u16,
    },
    /// Heads in consecutive slots of the available ring, and the ring's index.
    Offer {
        first: u8,
        heads: [u16; 2],
        index: u16,
    },
    Poke {
        address: Place,
        value: u64,
    },
}

#[derive(Arbitrary, Debug)]
pub enum Table {
    Queue,
    Indirect,
}

#[derive(Arbitrary, Debug)]
pub enum Place {
    Buffer(u8),
    Rings(u16),
    IndirectTable,
    /// Around the end of the first range of guest memory.
    Edge(i8),
    High(u16),
    Any(u64),
}

impl From<&Place> for u64 {
    fn from(place: &Place) -> Self {
        match *place {
            Place::Buffer(slot) => buffer(slot),
            Place::Rings(offset) => DESCRIPTORS + u64::from(offset) % (INDIRECT - DESCRIPTORS),
            Place::IndirectTable => INDIRECT,
            Place::Edge(distance) => LOW.wrapping_add_signed(distance.into()),
            Place::High(offset) => HIGH + u64::from(offset),
            Place::Any(address) => address,
        }
    }
}

fn buffer(slot: u8) -> u64 {
    BUFFERS + 16 * u64::from(slot)
}

pub struct Driver {
    transport: MmioTransport,
}

impl Driver {
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        MEMORY.0.discard();
        let line = Interrupt::new().expect("an eventfd");
        let transport = MmioTransport::new(MEMORY.1.clone(), line, device).expect("eventfds");
        Self { transport }
    }

    pub fn take(&self, step: &Step) {
        match *step {
            Step::Write { register, value } => self.write(u32::from(register) * 4 % 0x120, value),
            Step::WriteAny { offset, value, width } => {
                let bytes = &value.to_le_bytes()[..usize::from(width % 9)];
                self.transport.write(u64::from(offset) % 0x1000, bytes);
                self.settle();
            }
            Step::ReadAny { offset, width } => {
                let mut data = vec![0; usize::from(width % 9)];
                self.transport.read(u64::from(offset) % 0x1000, &mut data);
            }
            Step::Start { features, size } => self.start(features, size),
            Step::Reset => self.reset(),
            Step::Notify => self.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0),
            Step::Header { slot, kind, sector } => self.header(slot, kind, sector),
            Step::Describe {
                ref table,
                index,
                ref address,
                length,
                flags,
                next,
            } => {
                let table = match table {
                    Table::Queue => DESCRIPTORS,
                    Table::Indirect => INDIRECT,
                };
                self.describe(table, index.into(), (address.into(), length, flags, next));
            }
            Step::Offer { first, heads, index } => {
                for (slot, head) in (u16::from(first)..).zip(heads) {
                    self.put(
                        AVAILABLE + 4 + 2 * u64::from(slot % QUEUE_SIZE),
                        &head.to_le_bytes(),
                    );
                }
                self.put(AVAILABLE + 2, &index.to_le_bytes());
            }
            Step::Poke { ref address, value } => self.put(address.into(), &value.to_le_bytes()),
        }
    }

    /// What the disk says is in its first sector, to a driver that comes after this one.
    pub fn read_first_sector_after_a_reset(&self) -> Vec<u8> {
        self.reset();
        self.put(DESCRIPTORS, &[0; (BUFFERS - DESCRIPTORS) as usize]);
        self.start(0, QUEUE_SIZE);
        self.header(0, 0, 0);
        let (data, status) = (buffer(1), buffer(1) + 512);
        self.put(status, &[0xff]);
        self.describe(DESCRIPTORS, 0, (buffer(0), 16, F_NEXT, 1));
        self.describe(DESCRIPTORS, 1, (data, 512, F_NEXT | F_WRITE, 2));
        self.describe(DESCRIPTORS, 2, (status, 1, F_WRITE, 0));
        self.put(AVAILABLE + 2, &1u16.to_le_bytes());
        self.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);

        let mut sector = vec![0; 513];
        let _ = MEMORY.1.read_slice(&mut sector, GuestAddress(data));
        assert_eq!(sector.pop(), Some(0), "the disk did not come back from its reset");
        sector
    }

    pub fn stop(&self) {
        self.transport.stop();
    }

    fn start(&self, features: u64, size: u16) {
        let features = features | 1 << VIRTIO_F_VERSION_1;
        let size = match size {
            0 => QUEUE_SIZE,
            size => size,
        };
        self.write(
            VIRTIO_MMIO_STATUS,
            VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
        );
        for (select, value) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, value);
        }
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
        for (register, value) in [
            (VIRTIO_MMIO_QUEUE_SEL, 0),
            (VIRTIO_MMIO_QUEUE_NUM, size.into()),
            (VIRTIO_MMIO_QUEUE_DESC_LOW, DESCRIPTORS as u32),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE as u32),
            (VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32),
            (VIRTIO_MMIO_QUEUE_READY, 1),
        ] {
            self.write(register, value);
        }
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    }

    fn reset(&self) {
        self.write(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(self.status(), 0, "a reset is complete when its write is");
    }

    fn header(&self, slot: u8, kind: u32, sector: u64) {
        self.put(buffer(slot), &kind.to_le_bytes());
        self.put(buffer(slot) + 8, &sector.to_le_bytes());
    }

    fn describe(&self, table: u64, index: u16, (address, length, flags, next): (u64, u32, u16, u16)) {
        let descriptor = table + 16 * u64::from(index % QUEUE_SIZE);
        self.put(descriptor, &address.to_le_bytes());
        self.put(descriptor + 8, &length.to_le_bytes());
        self.put(descriptor + 12, &flags.to_le_bytes());
        self.put(descriptor + 14, &next.to_le_bytes());
    }

    /// What is outside of guest memory is lost.
    fn put(&self, address: u64, bytes: &[u8]) {
        let _ = MEMORY.1.write(bytes, GuestAddress(address));
    }

    fn status(&self) -> u32 {
        let mut status = [0; 4];
        self.transport.read(VIRTIO_MMIO_STATUS.into(), &mut status);
        u32::from_le_bytes(status)
    }

    fn add_status(&self, bits: u32) {
        self.write(VIRTIO_MMIO_STATUS, self.status() | bits);
    }

    fn write(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
        self.settle();
    }

    /// Waits until the device has served all there is, so that a run of the same steps is the same run.
    ///
    /// The device takes its first notification when it is done with what came before, and the second one when it is
    /// done with what the first announced.
    fn settle(&self) {
        // A device that feeds its own ring from its image is never done; then the reset has to end it.
        let deadline = Instant::now() + Duration::from_millis(500);
        let [notifier, ..] = self.transport.queue_notifiers() else {
            return;
        };
        for _ in 0..2 {
            if !self.serving() || notifier.write(1).is_err() {
                return;
            }
            while readable(notifier) && self.serving() && Instant::now() < deadline {
                thread::yield_now();
            }
        }
    }

    fn serving(&self) -> bool {
        self.status() & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET) == VIRTIO_CONFIG_S_DRIVER_OK
    }
}

fn readable(event: &impl AsRawFd) -> bool {
    let mut poll = libc::pollfd {
        fd: event.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, which outlives the call.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}
