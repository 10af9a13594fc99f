//! A virtio driver for tests: it finds a device through its registers and lays split rings out in guest
//! memory (virtio 1.2 sections 2.7, 3.1 and 4.2), the way a guest does.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::VirtioDevice;
use super::entropy::Entropy;
use super::mmio::MmioTransport;
use crate::bus::BusDevice;
use crate::interrupt::Interrupt;

pub const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

/// Descriptor flags.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Guest memory is two regions with a hole between them.
pub const MEMORY_SIZE: u64 = 1 << 20;
pub const HOLE: u64 = MEMORY_SIZE;
pub const HIGH_MEMORY: u64 = 4 << 20;

/// Guest addresses of queue 0.
pub const DESCRIPTORS: u64 = 0x1000;
pub const AVAILABLE: u64 = 0x2000;
pub const USED: u64 = 0x3000;
pub const RINGS_SIZE: u64 = 0x3000;
/// Tests put their requests into memory from this address on.
pub const BUFFERS: u64 = 0x1_0000;

/// A time that is exceeded only by a hang.
const TIMEOUT_MS: i32 = 60_000;

/// Address, length, flags, next.
pub type Descriptor = (u64, u32, u16, u16);

pub struct Driver {
    pub transport: Arc<MmioTransport>,
    pub memory: Arc<GuestMemoryMmap>,
    /// The eventfd that an interrupt writes.
    line: EventFd,
    epoll: Epoll,
    queue_size: u16,
    event_idx: bool,
    next_available: u16,
    next_used: u16,
}

impl Driver {
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let regions = [0, HIGH_MEMORY].map(|base| (GuestAddress(base), MEMORY_SIZE as usize));
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&regions).unwrap());
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let edge = line.try_clone().unwrap();
        let interrupt = Interrupt::new(move || edge.write(1));
        let transport = MmioTransport::new(memory.clone(), interrupt, device).unwrap();
        let epoll = Epoll::new().unwrap();
        epoll
            .ctl(
                ControlOperation::Add,
                line.as_raw_fd(),
                EpollEvent::new(EventSet::IN, 0),
            )
            .unwrap();
        let transport = Arc::new(transport);
        Self {
            transport,
            memory,
            line,
            epoll,
            queue_size: 0,
            event_idx: false,
            next_available: 0,
            next_used: 0,
        }
    }

    /// Ends a pause with another device, made by `make` from the state of the one that was paused. That one is dropped before.
    pub fn resume_anew(&mut self, make: impl FnOnce() -> Box<dyn VirtioDevice>) {
        let state = self.transport.state();
        let nothing = MmioTransport::new(
            self.memory.clone(),
            Interrupt::new(|| Ok(())),
            Box::new(Entropy::default()),
        );
        self.transport = Arc::new(nothing.unwrap());
        let edge = self.line.try_clone().unwrap();
        let interrupt = Interrupt::new(move || edge.write(1));
        let anew = MmioTransport::from_state(self.memory.clone(), interrupt, make(), &state).unwrap();
        assert_eq!(anew.state(), state);
        anew.resume();
        self.transport = Arc::new(anew);
    }

    pub fn read(&self, register: u32) -> u32 {
        let mut data = [0xff; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    /// The first bytes of the configuration space.
    pub fn config(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.transport
            .read(u64::from(VIRTIO_MMIO_CONFIG) + offset, &mut bytes);
        bytes
    }

    pub fn write_config(&self, offset: u64, bytes: &[u8]) {
        self.transport
            .write(u64::from(VIRTIO_MMIO_CONFIG) + offset, bytes);
    }

    pub fn status(&self) -> u32 {
        self.read(VIRTIO_MMIO_STATUS)
    }

    pub fn add_status(&self, bits: u32) {
        self.write(VIRTIO_MMIO_STATUS, self.status() | bits);
    }

    pub fn needs_reset(&self) -> bool {
        self.status() & VIRTIO_CONFIG_S_NEEDS_RESET != 0
    }

    pub fn features(&self) -> u64 {
        let word = |select| {
            self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES))
        };
        word(0) | word(1) << 32
    }

    /// Initializes the device up to step 6 of section 3.1.1. Returns whether the device accepts the features.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        self.add_status(VIRTIO_CONFIG_S_DRIVER);
        for select in [0, 1] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * select)) as u32);
        }
        self.event_idx = features & EVENT_IDX != 0;
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
        self.status() & VIRTIO_CONFIG_S_FEATURES_OK != 0
    }

    pub fn describe_queue(&mut self, index: u32, size: u32, [descriptors, available, used]: [u64; 3]) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, index);
        self.write(VIRTIO_MMIO_QUEUE_NUM, size);
        self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, descriptors as u32);
        self.write(VIRTIO_MMIO_QUEUE_DESC_HIGH, (descriptors >> 32) as u32);
        self.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, available as u32);
        self.write(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (available >> 32) as u32);
        self.write(VIRTIO_MMIO_QUEUE_USED_LOW, used as u32);
        self.write(VIRTIO_MMIO_QUEUE_USED_HIGH, (used >> 32) as u32);
    }

    /// Empties queue 0's rings and makes the queue ready.
    pub fn set_up_queue(&mut self, size: u16) {
        self.memory
            .write_slice(&[0; RINGS_SIZE as usize], GuestAddress(DESCRIPTORS))
            .unwrap();
        (self.queue_size, self.next_available, self.next_used) = (size, 0, 0);
        self.describe_queue(0, size.into(), [DESCRIPTORS, AVAILABLE, USED]);
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    pub fn driver_ok(&self) {
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    }

    /// Initializes a device of one queue, with all steps of section 3.1.1.
    pub fn start(&mut self, features: u64, queue_size: u16) {
        assert!(
            self.negotiate(features),
            "the device refused features {features:#x}"
        );
        self.set_up_queue(queue_size);
        self.driver_ok();
        assert!(!self.needs_reset());
    }

    pub fn reset(&mut self) {
        self.write(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(self.status(), 0);
        // Takes an interrupt that came before the reset.
        let _ = self.line.read();
    }

    /// Writes a descriptor of the table at `table`.
    pub fn describe(&self, table: u64, index: u16, (address, length, flags, next): Descriptor) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&length.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.memory
            .write_slice(&raw, GuestAddress(table + 16 * u64::from(index)))
            .unwrap();
    }

    fn load(&self, address: u64) -> u16 {
        self.memory
            .load(GuestAddress(address), std::sync::atomic::Ordering::SeqCst)
            .unwrap()
    }

    fn store(&self, value: u16, address: u64) {
        self.memory
            .store(value, GuestAddress(address), std::sync::atomic::Ordering::SeqCst)
            .unwrap();
    }

    /// Makes the chain at `head` available without a notification.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.queue_size);
        self.store(head, AVAILABLE + 4 + 2 * slot);
        self.next_available = self.next_available.wrapping_add(1);
        self.store(self.next_available, AVAILABLE + 2);
    }

    pub fn notify(&self) {
        self.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    }

    /// Notifies queue 0 if the device asked for a notification (section 2.7.10) of the chains that became available after the
    /// index was `before`.
    pub fn notify_if_wanted(&self, before: u16) -> bool {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.load(USED + 4 + 8 * u64::from(self.queue_size));
            let (new, event) = (self.next_available, event.wrapping_add(1));
            new.wrapping_sub(event) < new.wrapping_sub(before)
        } else {
            self.load(USED) & 1 == 0
        };
        if wanted {
            self.notify();
        }
        wanted
    }

    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    /// Asks for an interrupt at the next used chain. Returns whether a chain was used before that.
    pub fn want_interrupt(&self) -> bool {
        self.store(self.next_used, AVAILABLE + 4 + 2 * u64::from(self.queue_size));
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.load(USED + 2) != self.next_used
    }

    /// Waits for an interrupt, acknowledges it, and returns its causes.
    pub fn wait(&self) -> u32 {
        let ready = self.epoll.wait(TIMEOUT_MS, &mut [EpollEvent::default()]).unwrap();
        assert_eq!(ready, 1, "no interrupt came");
        self.line.read().unwrap();
        let causes = self.read(VIRTIO_MMIO_INTERRUPT_STATUS);
        self.write(VIRTIO_MMIO_INTERRUPT_ACK, causes);
        causes
    }

    pub fn interrupted(&self) -> bool {
        self.line.read().is_ok()
    }

    /// The next used element: head and length.
    pub fn take_used(&mut self) -> Option<(u32, u32)> {
        if self.load(USED + 2) == self.next_used {
            return None;
        }
        let element = USED + 4 + 8 * u64::from(self.next_used % self.queue_size);
        self.next_used = self.next_used.wrapping_add(1);
        let [head, length]: [u32; 2] = self.memory.read_obj(GuestAddress(element)).unwrap();
        Some((head, length))
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Whether the first region of memory is as it was `before`, except for the used ring and for the buffers that
    /// `descriptors` make writable.
    pub fn has_written_only<'a>(
        &self,
        before: &[u8],
        descriptors: impl Iterator<Item = &'a Descriptor>,
    ) -> bool {
        let mut after = self.bytes(0, MEMORY_SIZE as usize);
        let mut forgive = |start: u64, length: u64| {
            let end = start.saturating_add(length).min(MEMORY_SIZE) as usize;
            let range = start.min(MEMORY_SIZE) as usize..end;
            after[range.clone()].copy_from_slice(&before[range]);
        };
        forgive(USED, 4 + 8 * u64::from(self.queue_size) + 2);
        for (address, length, flags, _) in descriptors {
            if flags & WRITE != 0 {
                forgive(*address, u64::from(*length));
            }
        }
        before == after
    }

    pub fn put(&self, bytes: &[u8], address: u64) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }
}
