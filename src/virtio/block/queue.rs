//! One of a disk's queues, as an engine works through it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use log::Level;
use virtio_bindings::virtio_blk::*;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Disk;
use super::chain::{Chain, ChainError};
use super::request::{Refusal, Request};
use crate::virtio::VirtioInterrupt;
use crate::virtio::recent_memory::RecentMemory;
use crate::virtio::split_queue::{self, SplitQueue};

/// A queue that the driver made ready, and whom to tell of it.
pub struct DiskQueue<'m> {
    pub disk: &'m Disk,
    queue: SplitQueue<'m>,
    memory: RecentMemory<'m>,
    interrupt: &'m VirtioInterrupt,
    /// The driver never flushes, so every write is to be durable when it completes (virtio 1.2 section 5.2.6.2).
    is_never_flushed: bool,
    stop: &'m AtomicBool,
    /// Completions that the driver may still have to be told of.
    used: bool,
}

/// What a driver did to its queue that only a reset repairs (section 2.1.2).
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error(transparent)]
    Ring(#[from] split_queue::Error),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("cannot wait for its notifications: {0}")]
    Wait(io::Error),
}

/// Why a request did not succeed.
#[derive(Debug)]
pub enum Failure {
    Refused(Refusal),
    /// The image failed.
    Io(Request, io::Error),
    /// The device is being reset, and the driver hears nothing more.
    Stopped,
}

/// Waits for a notification of the driver, or for the end.
pub fn wait(notifier: &EventFd) -> Result<(), QueueError> {
    match notifier.read() {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(QueueError::Wait(error)),
        _ => Ok(()),
    }
}

impl<'m> DiskQueue<'m> {
    /// `queue` lies in `memory`, `features` are those that the driver accepted, and `stop` becomes true when the device
    /// is being reset.
    pub fn new(
        disk: &'m Disk,
        queue: &Queue,
        memory: &'m GuestMemoryMmap,
        interrupt: &'m VirtioInterrupt,
        features: u64,
        stop: &'m AtomicBool,
    ) -> Result<Self, QueueError> {
        Ok(Self {
            disk,
            queue: SplitQueue::new(memory, queue)?,
            memory: RecentMemory::new(memory),
            interrupt,
            is_never_flushed: features & 1 << VIRTIO_BLK_F_FLUSH == 0,
            stop,
            used: false,
        })
    }

    /// The most requests that it can hold.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Becomes true when the device is being reset.
    pub fn stop(&self) -> &'m AtomicBool {
        self.stop
    }

    /// Whether the device is being reset: then it begins no further request.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether a write must be durable when it completes.
    #[inline]
    pub fn writes_through(&self) -> bool {
        self.is_never_flushed || self.disk.writes_through()
    }

    /// Takes the next available request into `chain`, if there is one and the device is not being reset.
    #[inline]
    pub fn next(&mut self, chain: &mut Chain<'m>) -> Result<bool, QueueError> {
        if self.is_stopped() {
            return Ok(false);
        }
        let Some(head) = self.queue.take()? else {
            return Ok(false);
        };
        chain.fill(&mut self.memory, self.queue.table(), head, self.queue.size())?;
        Ok(true)
    }

    /// Tells the driver what came of the request in `chain`: the bytes written to the start of its writable stream,
    /// or why it failed.
    pub fn complete(&mut self, chain: &Chain, result: Result<u64, Failure>) -> Result<(), QueueError> {
        let (status, written) = match result {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(Failure::Stopped) => return Ok(()),
            Err(Failure::Refused(Refusal::Unsupported)) => (VIRTIO_BLK_S_UNSUPP, 0),
            Err(Failure::Refused(Refusal::Invalid(reason))) => {
                log::debug!("disk {:?}: invalid request: {reason}", self.disk.image.path());
                (VIRTIO_BLK_S_IOERR, 0)
            }
            Err(Failure::Io(request, error)) => {
                let path = self.disk.image.path();
                let line = format_args!("disk {path:?}: {request}: {error}; the guest sees an I/O error");
                self.disk.log.log(Level::Error, line);
                (VIRTIO_BLK_S_IOERR, 0)
            }
        };
        let length = chain.finish(status as u8, written);
        self.queue.add_used(chain.head(), length)?;
        self.used = true;
        Ok(())
    }

    /// Sends the driver a used buffer notification for what completed since the last one, if it wants one.
    pub fn notify_used(&mut self) {
        if std::mem::take(&mut self.used) && self.queue.needs_notification() {
            self.interrupt.notify_used();
        }
    }

    /// From here the driver need not tell of what it makes available.
    pub fn ignore_notifications(&mut self) {
        self.queue.ignore_notifications();
    }

    /// From here the driver tells of what it makes available. Says whether it made something available before that.
    pub fn want_notifications(&mut self) -> bool {
        self.queue.want_notifications()
    }
}
