//! A driver of the block device as Linux is one: indirect descriptors, EVENT_IDX, requests of 4 KiB (virtio 1.2
//! sections 2.7, 3.1 and 4.2). There is no guest: notifications are writes of the same eventfd that KVM would write.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use coracle::bus::BusDevice;
use coracle::config::{Cache, Disk, Engine};
use coracle::interrupt::Interrupt;
use coracle::virtio::block::Block;
use coracle::virtio::mmio::MmioTransport;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of a request's data.
pub const BLOCK: usize = 4096;
/// Requests under way at a time.
pub const DEPTH: usize = 32;

const QUEUE_SIZE: u16 = 256;
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_BLK_F_FLUSH;

/// Where things are in guest memory.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const TABLES: u64 = 0x4000;
const HEADERS: u64 = 0x6000;
const STATUS: u64 = 0x7000;
const DATA: u64 = 0x1_0000;
const MEMORY: usize = 1 << 20;

pub fn memory() -> Result<GuestMemoryMmap, Box<dyn Error>> {
    Ok(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])?)
}

/// A disk behind its transport, and how to tell it of requests.
pub struct Device {
    transport: MmioTransport,
    notifier: EventFd,
}

impl Device {
    /// Has a driver in `memory` start the disk that `file` is, which interrupts it by `interrupt`.
    pub fn start(
        file: &Path,
        engine: Engine,
        cache: Cache,
        memory: GuestMemoryMmap,
        interrupt: Interrupt,
    ) -> Result<Self, Box<dyn Error>> {
        let disk = Disk {
            engine,
            cache,
            ..Disk::new(file.into())
        };
        let block = Box::new(Block::open(&disk, 1)?);
        let transport = MmioTransport::new(Arc::new(memory), interrupt, block)?;
        let notifier = transport.queue_notifiers()[0].try_clone()?;
        let device = Self { transport, notifier };
        device.initialize()?;
        Ok(device)
    }

    /// Section 3.1.1.
    fn initialize(&self) -> Result<(), Box<dyn Error>> {
        let mut status = 0;
        for step in [VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER] {
            status |= step;
            self.write(VIRTIO_MMIO_STATUS, status);
        }
        for word in [0, 1] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, (FEATURES >> (32 * word)) as u32);
        }
        status |= VIRTIO_CONFIG_S_FEATURES_OK;
        self.write(VIRTIO_MMIO_STATUS, status);
        self.write(VIRTIO_MMIO_QUEUE_SEL, 0);
        self.write(VIRTIO_MMIO_QUEUE_NUM, QUEUE_SIZE.into());
        self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, DESCRIPTORS as u32);
        self.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE as u32);
        self.write(VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32);
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
        self.write(VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
        match self.read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET {
            0 => Ok(()),
            _ => Err("the device wants a reset".into()),
        }
    }

    fn write(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    /// Tells it of requests, if it wants that.
    pub fn notify(&self, requests: &mut Requests) -> Result<(), Box<dyn Error>> {
        if requests.are_awaited()? {
            self.notifier.write(1)?;
        }
        Ok(())
    }
}

/// The driver's side of the queue.
pub struct Requests {
    memory: GuestMemoryMmap,
    next_available: u16,
    /// Up to here the device has been told.
    announced: u16,
    next_used: u16,
}

impl Requests {
    /// Describes reads or writes in `memory`, all but their places on the disk.
    pub fn new(memory: GuestMemoryMmap, writes: bool) -> Result<Self, Box<dyn Error>> {
        let (kind, flags) = match writes {
            true => (VIRTIO_BLK_T_OUT, VRING_DESC_F_NEXT),
            false => (VIRTIO_BLK_T_IN, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE),
        };
        let requests = Self {
            memory,
            next_available: 0,
            announced: 0,
            next_used: 0,
        };
        for slot in 0..DEPTH as u64 {
            let table = TABLES + 64 * slot;
            requests.describe(DESCRIPTORS + 16 * slot, table, 48, VRING_DESC_F_INDIRECT, 0)?;
            let header = HEADERS + 16 * slot;
            requests.memory.write_obj(kind, GuestAddress(header))?;
            requests.describe(table, header, 16, VRING_DESC_F_NEXT, 1)?;
            let data = DATA + BLOCK as u64 * slot;
            requests.describe(table + 16, data, BLOCK as u32, flags, 2)?;
            requests.describe(table + 32, STATUS + slot, 1, VRING_DESC_F_WRITE, 0)?;
        }
        Ok(requests)
    }

    fn describe(
        &self,
        at: u64,
        address: u64,
        length: u32,
        flags: u32,
        next: u16,
    ) -> Result<(), Box<dyn Error>> {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&length.to_le_bytes());
        raw[12..14].copy_from_slice(&(flags as u16).to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        Ok(self.memory.write_slice(&raw, GuestAddress(at))?)
    }

    fn load(&self, address: u64) -> Result<u16, Box<dyn Error>> {
        Ok(self.memory.load(GuestAddress(address), Ordering::Acquire)?)
    }

    fn store(&self, value: u16, address: u64) -> Result<(), Box<dyn Error>> {
        Ok(self
            .memory
            .store(value, GuestAddress(address), Ordering::Release)?)
    }

    /// Makes a request available, in a slot that is free.
    pub fn offer(&mut self, slot: usize, offset: u64) -> Result<(), Box<dyn Error>> {
        let sector = GuestAddress(HEADERS + 16 * slot as u64 + 8);
        self.memory.write_obj(offset / 512, sector)?;
        let place = u64::from(self.next_available % QUEUE_SIZE);
        self.store(slot as u16, AVAILABLE + 4 + 2 * place)?;
        self.next_available = self.next_available.wrapping_add(1);
        self.store(self.next_available, AVAILABLE + 2)
    }

    /// Whether the device wants to be told of what was offered since this was asked (section 2.7.10).
    pub fn are_awaited(&mut self) -> Result<bool, Box<dyn Error>> {
        fence(Ordering::SeqCst);
        let event = self.load(USED + 4 + 8 * u64::from(QUEUE_SIZE))?;
        let since = self.next_available.wrapping_sub(event.wrapping_add(1));
        let offered = self.next_available.wrapping_sub(self.announced);
        self.announced = self.next_available;
        Ok(since < offered)
    }

    /// Takes the slot of a request that is complete, if there is one.
    pub fn take(&mut self) -> Result<Option<usize>, Box<dyn Error>> {
        if self.load(USED + 2)? == self.next_used {
            return Ok(None);
        }
        let element = USED + 4 + 8 * u64::from(self.next_used % QUEUE_SIZE);
        let [head, _]: [u32; 2] = self.memory.read_obj(GuestAddress(element))?;
        let status: u8 = self.memory.read_obj(GuestAddress(STATUS + u64::from(head)))?;
        if status != 0 {
            return Err(format!("a request ended with status {status}").into());
        }
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(head as usize))
    }

    /// Wants an interrupt when `count` more are complete, and says whether they are already.
    pub fn want_interrupt_after(&self, count: u16) -> Result<bool, Box<dyn Error>> {
        let last = self.next_used.wrapping_add(count);
        self.store(last.wrapping_sub(1), AVAILABLE + 4 + 2 * u64::from(QUEUE_SIZE))?;
        fence(Ordering::SeqCst);
        Ok(self.load(USED + 2)?.wrapping_sub(self.next_used) >= count)
    }
}
