//! A queue's I/O thread: from the driver's DRIVER_OK to the device's reset.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Disk;
use super::queue::{DiskQueue, QueueError};
use super::{sync, uring};
use crate::virtio::{ActiveQueue, VirtioInterrupt};

/// It reads and writes with few calls on the stack; the default of 2 MiB is address space for nothing.
const STACK_SIZE: usize = 128 << 10;

/// A running I/O thread. Dropped, it finishes the requests that it is at, and no other, and is gone.
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
        let thread = thread::Builder::new()
            .name(disk.thread_name())
            .stack_size(STACK_SIZE)
            .spawn({
                let stop = stop.clone();
                move || {
                    let ActiveQueue { queue, notifier, .. } = queue;
                    let queue = DiskQueue::new(&disk, &queue, &memory, &interrupt, features, &stop);
                    if let Err(error) = queue.and_then(|queue| serve(queue, &notifier)) {
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

    /// Lets the thread know that it is to end, without waiting for that.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // The thread waits for this eventfd and looks at `stop` after it.
        if let Err(error) = self.notifier.write(1) {
            log::error!("cannot wake a disk's I/O thread to stop it: {error}");
        }
    }
}

/// Serves `queue` with the disk's engine until its device is reset.
fn serve(queue: DiskQueue, notifier: &EventFd) -> Result<(), QueueError> {
    let (disk, depth) = (queue.disk, queue.size());
    let Some(raw) = disk.raw_for_uring() else {
        return sync::run(queue, notifier);
    };
    match uring::Ring::new(raw, notifier, depth) {
        Ok(ring) => ring.run(queue),
        Err(error) => {
            disk.warn_of_no_uring(&error);
            sync::run(queue, notifier)
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("a disk's I/O thread panicked");
        }
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod tests;
