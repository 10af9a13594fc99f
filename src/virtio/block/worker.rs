//! A queue's I/O thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Disk;
use super::queue::{DiskQueue, QueueError};
use super::{sync, uring};
use crate::threads;
use crate::virtio::{ActiveQueue, VirtioInterrupt};

/// In bytes. The thread's calls are not nested deeply, so the default of 2 MiB would waste address space.
const STACK_SIZE: usize = 128 << 10;

/// What a thread works with from the driver's DRIVER_OK to the device's reset: a queue, and how to notify the driver.
pub struct Job {
    pub queue: ActiveQueue,
    pub memory: Arc<GuestMemoryMmap>,
    /// The feature bits that the driver accepted.
    pub features: u64,
    pub interrupt: VirtioInterrupt,
}

/// An I/O thread of a disk. Dropping this ends the thread. While no driver uses the disk, the thread waits for a job.
pub struct Worker {
    /// None only while this is being dropped, which ends the thread.
    jobs: Option<Sender<(Job, Arc<AtomicBool>)>>,
    /// Receives a message each time that the thread has finished a job and dropped it.
    finished: Receiver<()>,
    /// The last job, until its end has been waited for.
    current: Option<CurrentJob>,
    thread: Option<JoinHandle<()>>,
}

struct CurrentJob {
    stop: Arc<AtomicBool>,
    notifier: Arc<EventFd>,
}

impl Worker {
    pub fn start(disk: Arc<Disk>) -> io::Result<Self> {
        let (jobs, given) = mpsc::channel::<(Job, Arc<AtomicBool>)>();
        let (finish, finished) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(disk.thread_name())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                for (job, stop) in given {
                    carry_out(&disk, &job, &stop);
                    // The job is dropped before its end is announced, because guest memory may be unmapped after that.
                    drop(job);
                    if finish.send(()).is_err() {
                        break;
                    }
                }
            })
            .map_err(threads::not_started)?;
        Ok(Self {
            jobs: Some(jobs),
            finished,
            current: None,
            thread: Some(thread),
        })
    }

    /// Makes the thread serve a queue until [`Worker::stop`].
    pub fn serve(&mut self, job: Job) -> io::Result<()> {
        self.wait();
        let current = CurrentJob {
            stop: Arc::new(AtomicBool::new(false)),
            notifier: job.queue.notifier.clone(),
        };
        let jobs = self.jobs.as_ref();
        let given = jobs.and_then(|jobs| jobs.send((job, current.stop.clone())).ok());
        given.ok_or_else(|| io::Error::other("its I/O thread has ended"))?;
        self.current = Some(current);
        Ok(())
    }

    /// Tells the thread to begin no further request of its job. Does not wait for the requests that it has begun.
    pub fn stop(&self) {
        let Some(job) = &self.current else { return };
        job.stop.store(true, Ordering::SeqCst);
        // The thread waits for this eventfd, and checks `stop` when it becomes readable.
        if let Err(error) = job.notifier.write(1) {
            log::error!("cannot wake a disk's I/O thread to stop it: {error}");
        }
    }

    /// Stops the thread's job and waits until the thread has dropped it.
    pub fn wait(&mut self) {
        self.stop();
        if self.current.take().is_some() && self.finished.recv().is_err() {
            log::error!("a disk's I/O thread panicked");
        }
    }
}

/// Serves the queue of `job` until `stop` is set.
fn carry_out(disk: &Disk, job: &Job, stop: &AtomicBool) {
    let Job {
        queue,
        memory,
        features,
        interrupt,
    } = job;
    let served = DiskQueue::new(disk, &queue.queue, memory, interrupt, *features, stop)
        .and_then(|served| serve(served, &queue.notifier));
    if let Err(error) = served {
        let path = disk.image.path();
        let line = format_args!("disk {path:?}: the driver must reset it: {error}");
        disk.log.log(log::Level::Warn, line);
        interrupt.need_reset();
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
        self.wait();
        self.jobs = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("a disk's I/O thread panicked");
        }
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod tests;
