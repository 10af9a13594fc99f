//! A hostile virtio driver, which takes one step at a time (virtio 1.2 sections 2.7, 3.1 and 4.2).

mod kind;
mod step;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use coracle::bus::BusDevice;
use coracle::interrupt::Interrupt;
use coracle::virtio::VirtioDevice;
use coracle::virtio::mmio::MmioTransport;
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::Guest;
pub use kind::Kind;
use step::Features;
pub use step::Step;

/// Guest memory: two ranges with a hole between them.
const LOW: u64 = 0x1_0000;
const HIGH: u64 = 0x2_0000;
const HIGH_SIZE: u64 = 0x4000;

/// Where a driver that starts in order has its queue, an indirect table, its buffers and a request's status.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const INDIRECT: u64 = 0x4000;
const BUFFERS: u64 = 0x5000;
const STATUS: u64 = 0xfff0;
const QUEUE_SIZE: u16 = 16;
/// The distance in bytes between the same part of two queues.
const NEXT_QUEUE: u64 = 0x200;
/// Queues that a driver uses of those that the device has.
pub const MOST_QUEUES: u8 = 4;

/// Size of the disk under attack: no whole number of pages.
pub const DISK_SECTORS: u64 = 17;

/// Registers of the window that have a meaning, in bytes from its start.
const REGISTERS_END: u32 = VIRTIO_MMIO_CONFIG + 0x40;
/// What the window has room for.
const WINDOW: u64 = 0x1000;

/// Descriptor flags.
const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;

static GUEST: LazyLock<Guest> =
    LazyLock::new(|| Guest::new(&[(0, LOW as usize), (HIGH, HIGH_SIZE as usize)]));
static MEMORY: LazyLock<Arc<GuestMemoryMmap>> = LazyLock::new(|| Arc::new(GUEST.memory.clone()));

fn buffer(slot: u8) -> u64 {
    BUFFERS + 16 * u64::from(slot)
}

pub struct Driver {
    transport: MmioTransport,
    /// Whether the device serves its queues on threads of its own.
    has_thread: bool,
    queue_size: u16,
    queues: u8,
    /// The index of each available ring, as it was last moved.
    available: [AtomicU16; MOST_QUEUES as usize],
}

/// The device's answer to a request.
#[derive(PartialEq)]
pub struct Answer {
    /// 0xff when the device did not write it.
    pub status: u8,
    pub data: Vec<u8>,
}

impl Driver {
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        GUEST.discard();
        let line = Interrupt::new(|| Ok(()));
        let largest = device.queue_max_sizes()[0];
        let queues = device.queue_max_sizes().len();
        Self {
            has_thread: device.device_id() != VIRTIO_ID_RNG,
            queue_size: QUEUE_SIZE.min(largest),
            transport: MmioTransport::new(MEMORY.clone(), line, device).expect("eventfds"),
            queues: u8::try_from(queues).unwrap_or(MOST_QUEUES).min(MOST_QUEUES),
            available: Default::default(),
        }
    }

    /// Does not wait for the device after a step, so that both work at the same time.
    pub fn without_waiting(self) -> Self {
        Self {
            has_thread: false,
            ..self
        }
    }

    /// Ends a pause with `device`, which takes the place of the one that was paused.
    pub fn resume_anew(&mut self, device: Box<dyn VirtioDevice>) {
        let (state, line) = (self.transport.state(), Interrupt::new(|| Ok(())));
        let anew = MmioTransport::from_state(MEMORY.clone(), line, device, &state);
        self.transport = anew.expect("the state is of such a device");
        assert!(
            self.transport.state() == state,
            "a device made anew is another one"
        );
        self.transport.resume();
    }

    pub fn transport(&self) -> &MmioTransport {
        &self.transport
    }

    /// Most attacks begin with a device that works; a reset is a step too.
    pub fn start_in_order(&self, features: u64) {
        self.start(features & self.offered_features(), self.queue_size);
    }

    pub fn take(&self, step: &Step) {
        match step {
            Step::Write { register, value } => self.write(u32::from(*register) * 4 % REGISTERS_END, *value),
            Step::WriteAny { offset, value, width } => {
                // Does not wait: if this is a notification, the device works at the same time as the next steps.
                let data = &value.to_le_bytes()[..usize::from(width % 9)];
                self.transport.write(u64::from(*offset) % WINDOW, data);
            }
            Step::ReadAny { offset, width } => {
                let mut data = vec![0; usize::from(width % 9)];
                self.transport.read(u64::from(*offset) % WINDOW, &mut data);
            }
            Step::Start { features, size } => {
                let features = match features {
                    Features::Some(features) => features & self.offered_features(),
                    Features::Any(features) => *features,
                };
                self.start(features, size.into());
            }
            Step::Reset => self.reset(),
            Step::Notify { queue } => self.notify(self.queue(*queue)),
            Step::Request {
                queue,
                kind,
                sector,
                sectors,
                indirect,
                announced,
            } => {
                let queue = self.queue(*queue);
                let descriptors = DESCRIPTORS + NEXT_QUEUE * u64::from(queue);
                let table = if *indirect { INDIRECT } else { descriptors };
                self.request(
                    table,
                    ((*kind).into(), sector.into()),
                    512 * u32::from(sectors % 4),
                );
                if *indirect {
                    self.describe(descriptors, 0, (INDIRECT, 3 * 16, F_INDIRECT, 0));
                }
                self.offer(queue, 0, 1);
                if *announced {
                    self.notify(queue);
                }
            }
            Step::Describe {
                table,
                index,
                address,
                length,
                flags,
                next,
            } => {
                let descriptor = (address.into(), length.into(), *flags, (*next).into());
                self.describe(table.into(), (*index).into(), descriptor);
            }
            Step::Offer { queue, head, count } => self.offer(self.queue(*queue), *head, *count),
            Step::Poke { address, value } => self.put(address.into(), &value.to_le_bytes()),
        }
    }

    /// What the device answers to a driver that comes after this one and asks for a disk's first bytes.
    pub fn read_after_a_reset(&self, length: u32) -> Answer {
        self.reset();
        self.put(DESCRIPTORS, &[0; (BUFFERS - DESCRIPTORS) as usize]);
        self.put(STATUS, &[0xff]);
        self.start(0, self.queue_size);
        self.request(DESCRIPTORS, (VIRTIO_BLK_T_IN, 0), length);
        self.offer(0, 0, 1);
        self.notify(0);
        // An engine may take a notification before it is done with what came before.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.get(USED + 2, 2) == [0, 0] && Instant::now() < deadline {
            thread::yield_now();
        }
        assert_eq!(
            self.get(USED + 2, 2),
            [1, 0],
            "the device did not come back from its reset"
        );
        Answer {
            status: self.get(STATUS, 1)[0],
            data: self.get(buffer(1), length as usize),
        }
    }

    pub fn stop(&self) {
        self.transport.stop();
    }

    fn offered_features(&self) -> u64 {
        let word = |select| {
            self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES))
        };
        word(0) | word(1) << 32
    }

    fn start(&self, features: u64, size: u16) {
        let features = features | 1 << VIRTIO_F_VERSION_1;
        self.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        for (select, value) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, value);
        }
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
        for queue in 0..self.queues {
            let place = NEXT_QUEUE * u64::from(queue);
            self.available[usize::from(queue)].store(0, Ordering::Relaxed);
            self.put(AVAILABLE + place, &[0; 4]);
            for (register, value) in [
                (VIRTIO_MMIO_QUEUE_SEL, queue.into()),
                (VIRTIO_MMIO_QUEUE_NUM, size.into()),
                (VIRTIO_MMIO_QUEUE_DESC_LOW, (DESCRIPTORS + place) as u32),
                (VIRTIO_MMIO_QUEUE_AVAIL_LOW, (AVAILABLE + place) as u32),
                (VIRTIO_MMIO_QUEUE_USED_LOW, (USED + place) as u32),
                (VIRTIO_MMIO_QUEUE_READY, 1),
            ] {
                self.write(register, value);
            }
        }
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    }

    fn reset(&self) {
        self.write(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(self.status(), 0, "a reset is complete when its write is");
    }

    /// Lays a request out in the first three descriptors of `table`.
    fn request(&self, table: u64, (kind, sector): (u32, u64), length: u32) {
        let header = buffer(0);
        self.put(header, &kind.to_le_bytes());
        self.put(header + 8, &sector.to_le_bytes());
        let (length, data_flags) = match kind {
            VIRTIO_BLK_T_OUT => (length, F_NEXT),
            // `struct virtio_blk_discard_write_zeroes`: what the length is for data is the range's here.
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
                self.put(buffer(1), &sector.to_le_bytes());
                self.put(buffer(1) + 8, &(length / 512).to_le_bytes());
                self.put(
                    buffer(1) + 12,
                    &u32::from(kind == VIRTIO_BLK_T_WRITE_ZEROES).to_le_bytes(),
                );
                (16, F_NEXT)
            }
            _ => (length, F_NEXT | F_WRITE),
        };
        self.describe(table, 0, (header, 16, F_NEXT, 1));
        self.describe(table, 1, (buffer(1), length, data_flags, 2));
        self.describe(table, 2, (STATUS, 1, F_WRITE, 0));
    }

    fn describe(&self, table: u64, index: u16, (address, length, flags, next): (u64, u32, u16, u16)) {
        let descriptor = table + 16 * u64::from(index % QUEUE_SIZE);
        self.put(descriptor, &address.to_le_bytes());
        self.put(descriptor + 8, &length.to_le_bytes());
        self.put(descriptor + 12, &flags.to_le_bytes());
        self.put(descriptor + 14, &next.to_le_bytes());
    }

    fn offer(&self, queue: u8, head: u16, count: u16) {
        let (ring, index) = (
            AVAILABLE + NEXT_QUEUE * u64::from(queue),
            &self.available[usize::from(queue)],
        );
        let before = index.load(Ordering::Relaxed);
        let slot = before % self.queue_size;
        self.put(ring + 4 + 2 * u64::from(slot), &head.to_le_bytes());
        let after = before.wrapping_add(count);
        index.store(after, Ordering::Relaxed);
        self.put(ring + 2, &after.to_le_bytes());
    }

    fn notify(&self, queue: u8) {
        self.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue.into());
    }

    /// One of the queues that there are.
    fn queue(&self, number: u8) -> u8 {
        number % self.queues
    }

    /// Writes outside of guest memory fail, which does not matter.
    fn put(&self, address: u64, bytes: &[u8]) {
        let _ = MEMORY.write(bytes, GuestAddress(address));
    }

    fn get(&self, address: u64, length: usize) -> Vec<u8> {
        GUEST.bytes(address, length)
    }

    fn status(&self) -> u32 {
        self.read(VIRTIO_MMIO_STATUS)
    }

    fn add_status(&self, bits: u32) {
        self.write(VIRTIO_MMIO_STATUS, self.status() | bits);
    }

    fn read(&self, register: u32) -> u32 {
        let mut value = [0; 4];
        self.transport.read(register.into(), &mut value);
        u32::from_le_bytes(value)
    }

    fn write(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
        if matches!(register, VIRTIO_MMIO_STATUS | VIRTIO_MMIO_QUEUE_NOTIFY) {
            self.settle();
        }
    }

    /// Waits until the device has served all there is, so that a run of the same steps is the same run.
    ///
    /// Each queue's thread takes its first notification when it is done with what came before, and the second one when
    /// it is done with what the first announced.
    fn settle(&self) {
        if !self.has_thread {
            return;
        }
        // A device that feeds its own ring from its image is never done; then the reset has to end it.
        let deadline = Instant::now() + Duration::from_millis(500);
        for notifier in self.transport.queue_notifiers() {
            for _ in 0..2 {
                if !self.serving() || notifier.write(1).is_err() {
                    return;
                }
                while readable(notifier) && self.serving() && Instant::now() < deadline {
                    thread::yield_now();
                }
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
