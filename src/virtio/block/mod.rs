//! The block device (virtio 1.2 section 5.2).

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vmm_sys_util::eventfd::EventFd;

use super::log_limit::LogLimit;
use super::state::{DeviceState, of_another_kind};
use super::traffic::Traffic;
use super::{Activation, QueuePosition, VirtioDevice};
use crate::config::{self, Cache, DISK_QUEUES_DEFAULT_MAX, Engine};
pub use backend::Backend;
use image::{Files, Image};
pub use image::{ImageError, OpenError, check_each_once};
pub use preview::Preview;
use queue::Begun;
use worker::Job;

mod backend;
mod chain;
mod configuration;
mod engine;
mod image;
mod preview;
pub mod qcow2;
mod queue;
mod request;
mod ring;
mod sync;
mod uring;
mod worker;

#[cfg(test)]
mod test_disk;

/// Large enough for a MiB of single pages in two requests.
const QUEUE_SIZE: u16 = 256;

/// A serial number, padded with NUL.
type Id = [u8; VIRTIO_BLK_ID_BYTES as usize];

/// The device through which a guest drives a disk.
pub struct Block {
    backend: Arc<Backend>,
    queue_sizes: Vec<u16>,
    /// Feature bits that the driver accepted.
    accepted: u64,
}

/// An open disk. Its threads share it.
struct Disk {
    image: Image,
    engine: engine::Choice,
    queues: u16,
    id: Id,
    log: Arc<LogLimit>,
    traffic: Traffic,
    /// Whether the person chose that every write is durable when it completes, whatever the driver chooses.
    always_writes_through: bool,
    /// Whether the driver has chosen that every write is durable when it completes.
    driver_writes_through: AtomicBool,
    /// Whether the log already says that io_uring cannot be used here.
    warned: AtomicBool,
}

impl Block {
    /// A device with a disk that nothing else uses.
    pub fn open(disk: &config::Disk, cpus: u8) -> Result<Self, ImageError> {
        Ok(Self::new(Arc::new(Backend::open(disk, cpus)?)))
    }

    /// A device that no driver drives yet.
    pub fn new(backend: Arc<Backend>) -> Self {
        Self {
            queue_sizes: vec![QUEUE_SIZE; backend.disk.queues.into()],
            accepted: 0,
            backend,
        }
    }

    fn disk(&self) -> &Disk {
        &self.backend.disk
    }

    /// Serves, once and on the caller's thread, what is available in `queue`. Returns whether the queue is still usable.
    #[cfg(fuzzing)]
    pub fn serve_once(&self, queue: virtio_queue::Queue, memory: &vm_memory::GuestMemoryMmap) -> bool {
        let line = crate::interrupt::Interrupt::new(|| Ok(()));
        let (interrupt, stop) = (super::VirtioInterrupt::new(line), queue::Stop::default());
        let queue = queue::DiskQueue::new(self.disk(), &queue, memory, &interrupt, u64::MAX, &stop);
        queue
            .and_then(|mut queue| sync::serve_batch(&mut queue, &mut chain::Chain::default()))
            .is_ok()
    }
}

fn pad_id(id: Option<&str>) -> Result<Id, OpenError> {
    let mut padded = Id::default();
    let Some(id) = id else { return Ok(padded) };
    match padded.get_mut(..id.len()) {
        Some(start) if !id.is_empty() && id.bytes().all(|byte| matches!(byte, b' '..=b'~')) => {
            start.copy_from_slice(id.as_bytes());
            Ok(padded)
        }
        _ => Err(OpenError::Id { id: id.into() }),
    }
}

/// How many request queues a disk has in a guest with `cpus` vCPUs.
fn queue_count(disk: &config::Disk, cpus: u8) -> u16 {
    let default = u16::from(cpus).min(DISK_QUEUES_DEFAULT_MAX);
    disk.queues.unwrap_or(default)
}

impl Disk {
    /// Opens the file of `disk` for a machine with `cpus` vCPUs.
    pub fn open(disk: &config::Disk, cpus: u8) -> Result<Self, ImageError> {
        let id = pad_id(disk.id.as_deref())?;
        Ok(Self::of(Image::open(disk)?, id, disk, cpus))
    }

    /// The same of a disk whose open `files` are handed over.
    pub fn handed_over(disk: &config::Disk, files: Vec<File>, cpus: u8) -> Result<Self, ImageError> {
        let id = pad_id(disk.id.as_deref())?;
        Ok(Self::of(Image::handed_over(disk, files)?, id, disk, cpus))
    }

    fn of(image: Image, id: Id, disk: &config::Disk, cpus: u8) -> Self {
        let always_writes_through = disk.cache == Cache::Writethrough;
        Self {
            engine: engine::choose(disk.engine, image.files().is_some()),
            queues: queue_count(disk, cpus),
            image,
            id,
            log: Arc::default(),
            traffic: Traffic::default(),
            always_writes_through,
            driver_writes_through: AtomicBool::new(always_writes_through),
            warned: AtomicBool::new(false),
        }
    }

    /// "disk-" and the id, or the image's file name if there is no id. Linux shows the first 15 bytes of it.
    fn thread_name(&self) -> String {
        let id = self.id.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = match id {
            [] => self
                .image
                .path()
                .file_name()
                .unwrap_or_default()
                .to_string_lossy(),
            id => String::from_utf8_lossy(id),
        };
        format!("disk-{name}")
    }

    /// The image's files, if io_uring carries out its requests.
    fn files_for_uring(&self) -> Option<Files<'_>> {
        match self.engine.engine {
            Engine::Uring => self.image.files(),
            _ => None,
        }
    }

    fn warn_of_no_uring(&self, error: &io::Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let path = self.image.path();
            log::warn!("disk {path:?}: no io_uring here ({error}): engine=sync takes its place");
        }
    }

    /// Whether a write must be durable when it completes, although the driver can flush.
    fn writes_through(&self) -> bool {
        self.always_writes_through || self.driver_writes_through.load(Ordering::Relaxed)
    }

    /// Sets `writeback` of the configuration: whether a write may complete before it is durable (section 5.2.5).
    fn set_writeback(&self, writeback: bool) {
        self.driver_writes_through.store(!writeback, Ordering::Relaxed);
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn log(&self) -> Arc<LogLimit> {
        self.disk().log.clone()
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        configuration::features(self.disk().image.limits(), self.queue_sizes.len())
    }

    fn features_accepted(&mut self, features: u64) {
        self.accepted = features;
        // Section 5.2.5.2: writeback is 0 at first if the driver cannot flush.
        let flushes = features & 1 << VIRTIO_BLK_F_FLUSH != 0;
        self.disk()
            .set_writeback(flushes && !self.disk().always_writes_through);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = configuration::Configuration {
            image: &self.disk().image,
            queues: self.queue_sizes.len() as u16,
            queue_size: QUEUE_SIZE,
            writeback: !self.disk().driver_writes_through.load(Ordering::Relaxed),
        };
        let bytes = config.bytes();
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| bytes.get(offset..))
            .unwrap_or_default();
        for (byte, value) in data.iter_mut().zip(rest) {
            *byte = *value;
        }
    }

    /// Takes a write of the driver to `writeback`, the only field that it may write.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let negotiated = self.accepted & 1 << VIRTIO_BLK_F_CONFIG_WCE != 0;
        if let (configuration::WRITEBACK, &[value], true) = (offset, data, negotiated) {
            self.disk().set_writeback(value != 0);
        }
    }

    fn notifiers(&self) -> io::Result<Vec<Arc<EventFd>>> {
        self.backend.notifiers()
    }

    /// Starts a thread for each queue.
    fn prepare(&mut self) -> io::Result<()> {
        self.backend.start()
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation {
            memory,
            queues,
            features,
            interrupt,
        } = activation;
        if queues.is_empty() {
            return Err(io::Error::other("none of its queues is ready"));
        }
        self.prepare()?;
        self.backend.serve(queues.into_iter().map(|queue| Job {
            queue,
            memory: memory.clone(),
            features,
            interrupt: interrupt.clone(),
        }))
    }

    fn state(&self) -> DeviceState {
        DeviceState::Block {
            writeback: !self.disk().driver_writes_through.load(Ordering::Relaxed),
        }
    }

    fn restore(&mut self, state: &DeviceState) -> io::Result<()> {
        match *state {
            DeviceState::Block { writeback } => self.disk().set_writeback(writeback),
            _ => return Err(of_another_kind()),
        }
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<QueuePosition> {
        self.backend.leave_queues(Begun::Complete)
    }

    fn reset(&mut self) {
        self.backend.leave_queues(Begun::Abandon);
        self.accepted = 0;
        self.disk().set_writeback(!self.disk().always_writes_through);
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
