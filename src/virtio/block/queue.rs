//! One of a disk's queues: an engine takes requests from it and completes them.

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

/// A queue that the driver made ready, with what is needed to take, check and complete its requests.
pub struct DiskQueue<'m> {
    pub disk: &'m Disk,
    queue: SplitQueue<'m>,
    memory: RecentMemory<'m>,
    interrupt: &'m VirtioInterrupt,
    /// Whether the driver cannot flush. Then every write must be durable when it completes (virtio 1.2 section 5.2.6.2).
    is_never_flushed: bool,
    stop: &'m Stop,
    /// Whether requests were completed of which the driver has not been notified yet.
    used: bool,
}

/// Tells a thread to leave its queue.
#[derive(Debug, Default)]
pub struct Stop {
    requested: AtomicBool,
    /// Whether requests that were begun need not be completed.
    abandon: AtomicBool,
}

/// What becomes of the requests that a thread has begun when it leaves its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// They are completed.
    Complete,
    /// They end where they are, and the driver is not told of them.
    Abandon,
}

impl Stop {
    pub fn request(&self, begun: Begun) {
        if begun == Begun::Abandon {
            self.abandon.store(true, Ordering::SeqCst);
        }
        self.requested.store(true, Ordering::SeqCst);
    }

    #[inline]
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Whether a request that was begun is to be left as it is.
    #[inline]
    pub fn abandons(&self) -> bool {
        self.abandon.load(Ordering::SeqCst)
    }
}

/// A fault after which the device needs a reset (section 2.1.2).
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
    /// The device is being reset. The driver is not told of this request.
    Stopped,
}

/// Waits for a notification by the driver, or until the device is to stop.
pub fn wait(notifier: &EventFd) -> Result<(), QueueError> {
    match notifier.read() {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(QueueError::Wait(error)),
        _ => Ok(()),
    }
}

impl<'m> DiskQueue<'m> {
    /// `queue` lies in `memory`, `features` are those that the driver accepted, and `stop` says when the queue is to be
    /// left.
    pub fn new(
        disk: &'m Disk,
        queue: &Queue,
        memory: &'m GuestMemoryMmap,
        interrupt: &'m VirtioInterrupt,
        features: u64,
        stop: &'m Stop,
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

    /// How many requests the queue can hold.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Whether and how the queue is to be left.
    pub fn stop(&self) -> &'m Stop {
        self.stop
    }

    /// Whether the queue is to be left. Then no further request is begun.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_requested()
    }

    /// The indices in the available and the used ring that come next.
    pub fn next_indices(&self) -> (u16, u16) {
        self.queue.next()
    }

    /// Whether a write must be durable when it completes.
    #[inline]
    pub fn writes_through(&self) -> bool {
        self.is_never_flushed || self.disk.writes_through()
    }

    /// Takes the next available request into `chain`, if there is one and the queue is not to be left.
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

    /// Reports the result of the request in `chain` to the driver: how many bytes were written to the start of its writable
    /// stream, or why it failed.
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

    /// Notifies the driver of the requests that completed since the last notification, if there are any and it wants that.
    pub fn notify_used(&mut self) {
        if std::mem::take(&mut self.used) && self.queue.needs_notification() {
            self.interrupt.notify_used();
        }
    }

    /// Tells the driver that it need not notify the device of available requests.
    pub fn ignore_notifications(&mut self) {
        self.queue.ignore_notifications();
    }

    /// Tells the driver to notify the device of available requests. Returns whether requests became available before the driver
    /// could know that.
    pub fn want_notifications(&mut self) -> bool {
        self.queue.want_notifications()
    }
}
