//! A queue's I/O thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::queue::{Begun, DiskQueue, Stop};
use super::ring::Ring;
use super::{Disk, QUEUE_SIZE};
use super::{sync, uring};
use crate::confine::filter;
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

/// A queue's I/O thread, and what wakes it. Dropping this ends the thread. While no driver uses the disk, the thread waits for
/// a job.
pub struct Worker {
    notifier: Arc<EventFd>,
    /// None before [`Worker::start`].
    thread: Option<Thread>,
    /// The last job, until its end has been waited for.
    current: Option<Arc<Stop>>,
}

struct Thread {
    /// Dropping this ends the thread.
    jobs: Sender<(Job, Arc<Stop>)>,
    /// Receives a message each time that the thread has finished a job and dropped it: how far it came, if the driver has not
    /// broken the queue.
    finished: Receiver<Option<QueuePosition>>,
    /// Receives a message when the thread has its ring, if it needs one.
    ready: Receiver<io::Result<()>>,
    handle: JoinHandle<()>,
}

impl Worker {
    /// One without a thread.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            notifier: Arc::new(EventFd::new(libc::EFD_CLOEXEC)?),
            thread: None,
            current: None,
        })
    }

    /// Becomes readable when the driver notifies the queue.
    pub fn notifier(&self) -> &Arc<EventFd> {
        &self.notifier
    }

    /// Starts the thread, unless it runs. It makes its ring by itself: [`Worker::wait_until_ready`] tells when.
    pub fn start(&mut self, disk: &Arc<Disk>) -> io::Result<()> {
        if self.thread.is_some() {
            return Ok(());
        }
        let (jobs, given) = mpsc::channel::<(Job, Arc<Stop>)>();
        let (finish, finished) = mpsc::channel();
        let (made, ready) = mpsc::channel();
        let (disk, notifier) = (disk.clone(), self.notifier.clone());
        let handle = thread::Builder::new()
            .name(disk.thread_name())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                let mut ring = match ring(&disk, &notifier) {
                    Ok(ring) => ring,
                    // Whoever started this thread is told, and starts no guest.
                    Err(error) => return drop(made.send(Err(error))),
                };
                filter::narrow(match ring {
                    Some(_) => filter::Kind::DiskWithRing,
                    None => filter::Kind::Disk,
                });
                // Nobody waits for this when the thread is not needed any more.
                let _ = made.send(Ok(()));
                drop(made);
                for (job, stop) in given {
                    let position = carry_out(&disk, ring.as_mut(), &notifier, &job, &stop);
                    // The job is dropped before its end is announced, because guest memory may be unmapped after that.
                    drop(job);
                    if finish.send(position).is_err() {
                        break;
                    }
                }
            })
            .map_err(threads::not_started)?;
        self.thread = Some(Thread {
            jobs,
            finished,
            ready,
            handle,
        });
        Ok(())
    }

    /// Waits until the thread has what it needs for its jobs.
    pub fn wait_until_ready(&self) -> io::Result<()> {
        match &self.thread {
            // The thread sends one message. A thread that was waited for before sends none.
            Some(thread) => thread.ready.recv().unwrap_or(Ok(())),
            None => Ok(()),
        }
    }

    /// Makes the thread serve a queue until [`Worker::stop`].
    pub fn serve(&mut self, job: Job) -> io::Result<()> {
        self.wait(Begun::Abandon);
        let stop = Arc::<Stop>::default();
        let jobs = self.thread.as_ref().map(|thread| &thread.jobs);
        let given = jobs.and_then(|jobs| jobs.send((job, stop.clone())).ok());
        given.ok_or_else(|| io::Error::other("its I/O thread has ended"))?;
        self.current = Some(stop);
        Ok(())
    }

    /// Tells the thread to begin no further request of its job. Does not wait for the requests that it has begun.
    pub fn stop(&self, begun: Begun) {
        let Some(stop) = &self.current else { return };
        stop.request(begun);
        // The thread waits for this eventfd, and looks at `stop` when it becomes readable.
        if let Err(error) = self.notifier.write(1) {
            log::error!("cannot wake a disk's I/O thread to stop it: {error}");
        }
    }

    /// Stops the thread's job and waits until the thread has dropped it. Returns how far it came, if it had a job and the driver
    /// has not broken the queue.
    pub fn wait(&mut self, begun: Begun) -> Option<QueuePosition> {
        self.stop(begun);
        self.current.take()?;
        let finished = self.thread.as_ref()?.finished.recv();
        finished.unwrap_or_else(|_| {
            log::error!("a disk's I/O thread panicked");
            None
        })
    }
}

/// The ring for a disk whose requests io_uring carries out. None if that is not so, or if there is no io_uring here.
fn ring<'d>(disk: &'d Disk, notifier: &'d EventFd) -> io::Result<Option<Ring<'d>>> {
    let Some(files) = disk.files_for_uring() else {
        return Ok(None);
    };
    match Ring::new(files, notifier, QUEUE_SIZE) {
        Ok(ring) => Ok(Some(ring)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Err(error),
        Err(error) => {
            disk.warn_of_no_uring(&error);
            Ok(None)
        }
    }
}

/// Serves the queue of `job`, with the ring if there is one, until `stop` is requested. Returns how far, if the driver has not
/// broken the queue.
fn carry_out(
    disk: &Disk,
    ring: Option<&mut Ring>,
    notifier: &EventFd,
    job: &Job,
    stop: &Stop,
) -> Option<QueuePosition> {
    let Job {
        queue,
        memory,
        features,
        interrupt,
    } = job;
    let served =
        DiskQueue::new(disk, &queue.queue, memory, interrupt, *features, stop).and_then(
            |served| match ring {
                Some(ring) => uring::run(ring, served),
                None => sync::run(served, notifier),
            },
        );
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

impl Drop for Worker {
    fn drop(&mut self) {
        self.wait(Begun::Abandon);
        let Some(Thread { jobs, handle, .. }) = self.thread.take() else {
            return;
        };
        drop(jobs);
        if handle.join().is_err() {
            log::error!("a disk's I/O thread panicked");
        }
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod tests;
