//! A driver of the block device as Linux is one: indirect descriptors, EVENT_IDX, requests of 4 KiB (virtio 1.2
//! sections 2.7, 3.1 and 4.2). There is no guest: what KVM would carry is carried by the same eventfds.

use std::error::Error;
use std::os::fd::AsRawFd;
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
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

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

pub struct Driver {
    transport: MmioTransport,
    memory: GuestMemoryMmap,
    notifier: EventFd,
    /// What an interrupt writes.
    line: EventFd,
    next_available: u16,
    /// Up to here the device has been notified.
    announced: u16,
    next_used: u16,
}

impl Driver {
    pub fn new(file: &Path, engine: Engine, cache: Cache) -> Result<Self, Box<dyn Error>> {
        let disk = Disk {
            engine,
            cache,
            ..Disk::new(file.into())
        };
        let block = Box::new(Block::open(&disk, 1)?);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])?;
        let line = EventFd::new(EFD_NONBLOCK)?;
        let edge = line.try_clone()?;
        let interrupt = Interrupt::new(move || edge.write(1));
        let transport = MmioTransport::new(Arc::new(memory.clone()), interrupt, block)?;
        let notifier = transport.queue_notifiers()[0].try_clone()?;
        let driver = Self {
            transport,
            memory,
            notifier,
            line,
            next_available: 0,
            announced: 0,
            next_used: 0,
        };
        driver.start()?;
        Ok(driver)
    }

    /// Section 3.1.1.
    fn start(&self) -> Result<(), Box<dyn Error>> {
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
        for slot in 0..DEPTH as u64 {
            let table = TABLES + 64 * slot;
            self.describe(DESCRIPTORS + 16 * slot, table, 48, VRING_DESC_F_INDIRECT, 0)?;
            self.describe(table, HEADERS + 16 * slot, 16, VRING_DESC_F_NEXT, 1)?;
            self.describe(table + 32, STATUS + slot, 1, VRING_DESC_F_WRITE, 0)?;
        }
        self.write(VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
        match self.read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET {
            0 => Ok(()),
            _ => Err("the device wants a reset".into()),
        }
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

    fn write(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
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
    pub fn offer(&mut self, slot: usize, writes: bool, offset: u64) -> Result<(), Box<dyn Error>> {
        let (kind, flags) = match writes {
            true => (VIRTIO_BLK_T_OUT, VRING_DESC_F_NEXT),
            false => (VIRTIO_BLK_T_IN, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE),
        };
        let at = slot as u64;
        let header = [u64::from(kind), offset / 512];
        self.memory.write_obj(header, GuestAddress(HEADERS + 16 * at))?;
        let data = DATA + BLOCK as u64 * at;
        self.describe(TABLES + 64 * at + 16, data, BLOCK as u32, flags, 2)?;
        let place = u64::from(self.next_available % QUEUE_SIZE);
        self.store(slot as u16, AVAILABLE + 4 + 2 * place)?;
        self.next_available = self.next_available.wrapping_add(1);
        self.store(self.next_available, AVAILABLE + 2)
    }

    /// Notifies the device of what was offered, if it wants that (section 2.7.10).
    pub fn notify(&mut self) -> Result<(), Box<dyn Error>> {
        fence(Ordering::SeqCst);
        let event = self.load(USED + 4 + 8 * u64::from(QUEUE_SIZE))?;
        let since = self.next_available.wrapping_sub(event.wrapping_add(1));
        if since < self.next_available.wrapping_sub(self.announced) {
            self.notifier.write(1)?;
        }
        self.announced = self.next_available;
        Ok(())
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

    /// Wants no interrupt for now.
    pub fn poll(&self) -> Result<(), Box<dyn Error>> {
        self.want_interrupt_after(self.next_used.wrapping_sub(1))
    }

    /// Sleeps until as many requests as are under way are complete, of which there are `count`.
    pub fn sleep(&self, count: usize) -> Result<(), Box<dyn Error>> {
        let last = self.next_used.wrapping_add(count as u16);
        self.want_interrupt_after(last.wrapping_sub(1))?;
        fence(Ordering::SeqCst);
        while self.load(USED + 2)? != last {
            let mut descriptor = libc::pollfd {
                fd: self.line.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: there is one entry, and it lives across the call.
            unsafe { libc::poll(&mut descriptor, 1, -1) };
            // An error is that of an edge which came for nothing.
            let _ = self.line.read();
        }
        Ok(())
    }

    fn want_interrupt_after(&self, index: u16) -> Result<(), Box<dyn Error>> {
        self.store(index, AVAILABLE + 4 + 2 * u64::from(QUEUE_SIZE))
    }
}
