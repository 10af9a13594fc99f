//! A queue's I/O thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Disk;
use super::queue::{Begun, DiskQueue, QueueError, Stop};
use super::{sync, uring};
use crate::threads;
use crate::virtio::{ActiveQueue, QueuePosition, VirtioInterrupt};

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
    jobs: Option<Sender<(Job, Arc<Stop>)>>,
    /// Receives a message each time that the thread has finished a job and dropped it: how far it came, if the driver has not
    /// broken the queue.
    finished: Receiver<Option<QueuePosition>>,
    /// The last job, until its end has been waited for.
    current: Option<CurrentJob>,
    thread: Option<JoinHandle<()>>,
}

struct CurrentJob {
    stop: Arc<Stop>,
    notifier: Arc<EventFd>,
}

impl Worker {
    pub fn start(disk: Arc<Disk>) -> io::Result<Self> {
        let (jobs, given) = mpsc::channel::<(Job, Arc<Stop>)>();
        let (finish, finished) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(disk.thread_name())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                for (job, stop) in given {
                    let position = carry_out(&disk, &job, &stop);
                    // The job is dropped before its end is announced, because guest memory may be unmapped after that.
                    drop(job);
                    if finish.send(position).is_err() {
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
        self.wait(Begun::Abandon);
        let current = CurrentJob {
            stop: Arc::default(),
            notifier: job.queue.notifier.clone(),
        };
        let jobs = self.jobs.as_ref();
        let given = jobs.and_then(|jobs| jobs.send((job, current.stop.clone())).ok());
        given.ok_or_else(|| io::Error::other("its I/O thread has ended"))?;
        self.current = Some(current);
        Ok(())
    }

    /// Tells the thread to begin no further request of its job. Does not wait for the requests that it has begun.
    pub fn stop(&self, begun: Begun) {
        let Some(job) = &self.current else { return };
        job.stop.request(begun);
        // The thread waits for this eventfd, and checks `stop` when it becomes readable.
        if let Err(error) = job.notifier.write(1) {
            log::error!("cannot wake a disk's I/O thread to stop it: {error}");
        }
    }

    /// Stops the thread's job and waits until the thread has dropped it. Returns how far it came, if it had a job and the driver
    /// has not broken the queue.
    pub fn wait(&mut self, begun: Begun) -> Option<QueuePosition> {
        self.stop(begun);
        self.current.take()?;
        let finished = self.finished.recv();
        finished.unwrap_or_else(|_| {
            log::error!("a disk's I/O thread panicked");
            None
        })
    }
}

/// Serves the queue of `job` until `stop` is requested. Returns how far, if the driver has not broken the queue.
fn carry_out(disk: &Disk, job: &Job, stop: &Stop) -> Option<QueuePosition> {
    let Job {
        queue,
        memory,
        features,
        interrupt,
    } = job;
    let served = DiskQueue::new(disk, &queue.queue, memory, interrupt, *features, stop)
        .and_then(|served| serve(served, &queue.notifier));
    match served {
        Ok((next_available, next_used)) => Some(QueuePosition {
            queue: queue.index,
            next_available,
            next_used,
        }),
        Err(error) => {
            let path = disk.image.path();
            let line = format_args!("disk {path:?}: the driver must reset it: {error}");
            disk.log.log(log::Level::Warn, line);
            interrupt.need_reset();
            None
        }
    }
}

/// Serves `queue` with the disk's engine until it is to be left. Returns the indices in its two rings that come next.
fn serve(queue: DiskQueue, notifier: &EventFd) -> Result<(u16, u16), QueueError> {
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
        self.wait(Begun::Abandon);
        self.jobs = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("a disk's I/O thread panicked");
        }
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod tests;
