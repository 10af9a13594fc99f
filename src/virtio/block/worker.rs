//! A disk's I/O thread: from the driver's DRIVER_OK to the device's reset, it serves one queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Disk;
use super::chain::{Chain, ChainError};
use super::request::Server;
use crate::virtio::{ActiveQueue, VirtioInterrupt};

/// It reads and writes with few calls on the stack; the default of 2 MiB is address space for nothing.
const STACK_SIZE: usize = 128 << 10;

/// A running I/O thread. Dropped, it finishes the request that it is at, and no other, and is gone.
pub struct Worker {
    stop: Arc<AtomicBool>,
    notifier: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(
        disk: Arc<Disk>,
        queue: ActiveQueue,
        memory: Arc<GuestMemoryMmap>,
        features: u64,
        interrupt: VirtioInterrupt,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let notifier = queue.notifier.try_clone()?;
        let write_through = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        let thread = thread::Builder::new()
            .name(disk.thread_name())
            .stack_size(STACK_SIZE)
            .spawn({
                let stop = stop.clone();
                move || {
                    let ActiveQueue { queue, notifier, .. } = queue;
                    let server = Server::new(&disk.image, &disk.id, &disk.log, write_through);
                    let queue = ServedQueue {
                        queue,
                        memory: &memory,
                        interrupt: &interrupt,
                        server,
                        stop: &stop,
                    };
                    if let Err(error) = queue.run(&notifier) {
                        let path = disk.image.path();
                        let line = format_args!("disk {path:?}: the driver must reset it: {error}");
                        disk.log.log(log::Level::Warn, line);
                        interrupt.need_reset();
                    }
                }
            })?;
        Ok(Self {
            stop,
            notifier,
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // The thread waits for this eventfd and looks at `stop` after it.
        if let Err(error) = self.notifier.write(1) {
            log::error!("cannot wake a disk's I/O thread to stop it: {error}");
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("a disk's I/O thread panicked");
        }
    }
}

struct ServedQueue<'m> {
    queue: Queue,
    memory: &'m GuestMemoryMmap,
    interrupt: &'m VirtioInterrupt,
    server: Server<'m>,
    stop: &'m AtomicBool,
}

/// What a driver did to its queue that only a reset repairs (section 2.1.2).
#[derive(Debug, thiserror::Error)]
enum QueueError {
    #[error(transparent)]
    Ring(#[from] virtio_queue::Error),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("cannot wait for its notifications: {0}")]
    Notifier(#[from] io::Error),
}

impl ServedQueue<'_> {
    fn run(mut self, notifier: &EventFd) -> Result<(), QueueError> {
        while !self.stopped() {
            self.serve_until_empty()?;
            notifier.read()?;
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn serve_until_empty(&mut self) -> Result<(), QueueError> {
        loop {
            self.queue.disable_notification(self.memory)?;
            let next_used = self.queue.next_used();
            let served = self.serve_batch();
            // Completions before a broken chain count too.
            if self.queue.next_used() != next_used && self.queue.needs_notification(self.memory)? {
                self.interrupt.notify_used();
            }
            served?;
            // Chains made available up to this point came without a notification: once more, then.
            if self.stopped() || !self.queue.enable_notification(self.memory)? {
                return Ok(());
            }
        }
    }

    fn serve_batch(&mut self) -> Result<(), QueueError> {
        let memory = self.memory;
        // Not those that arrive meanwhile: the driver would hear of the first only after the last.
        let end = self.queue.avail_idx(memory, Ordering::Acquire)?.0;
        while self.queue.next_avail() != end && !self.stopped() {
            let Some(descriptors) = self.queue.iter(memory)?.next() else {
                break;
            };
            let head = descriptors.head_index();
            let chain = Chain::read(memory, descriptors, self.queue.size())?;
            let length = self.server.serve(chain);
            self.queue.add_used(memory, head, length)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod tests;
