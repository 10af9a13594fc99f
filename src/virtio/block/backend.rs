//! A disk's part on the host: the image, and a thread for each queue. It outlives the devices that drive the disk, so that a
//! guest that reboots needs nothing new of the host.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::queue::Begun;
use super::worker::{Job, Worker};
use super::{Disk, ImageError};
use crate::config;
use crate::virtio::QueuePosition;
use crate::virtio::traffic::Traffic;

pub struct Backend {
    /// One for each queue, once somebody has asked for [`Backend::notifiers`]. Declared before the disk, so that the threads have
    /// ended before it is closed: they may not do that.
    workers: Mutex<Vec<Worker>>,
    pub(super) disk: Arc<Disk>,
}

impl Backend {
    /// Opens the file of `disk` for a machine with `cpus` vCPUs.
    pub fn open(disk: &config::Disk, cpus: u8) -> Result<Self, ImageError> {
        Disk::open(disk, cpus).map(Self::of)
    }

    /// The same of a disk whose open `files` are handed over.
    pub fn handed_over(disk: &config::Disk, files: Vec<File>, cpus: u8) -> Result<Self, ImageError> {
        Disk::handed_over(disk, files, cpus).map(Self::of)
    }

    pub(super) fn of(disk: Disk) -> Self {
        Self {
            disk: Arc::new(disk),
            workers: Mutex::default(),
        }
    }

    /// How many threads serve the disk: one for each queue.
    pub fn threads(&self) -> usize {
        self.disk.queues.into()
    }

    /// What the guest has read and written so far.
    pub fn traffic(&self) -> &Traffic {
        &self.disk.traffic
    }

    /// What wakes the thread of each queue.
    pub(super) fn notifiers(&self) -> io::Result<Vec<Arc<EventFd>>> {
        let workers = self.made_workers()?;
        Ok(workers.iter().map(|worker| worker.notifier().clone()).collect())
    }

    /// Starts the threads, unless they run, and waits until all have what they need for their work.
    pub(super) fn start(&self) -> io::Result<()> {
        let mut workers = self.made_workers()?;
        // All are started before the first is waited for, so that they make their rings at the same time.
        workers
            .iter_mut()
            .try_for_each(|worker| worker.start(&self.disk))?;
        workers.iter().try_for_each(Worker::wait_until_ready)
    }

    /// Gives each job to the thread of its queue.
    pub(super) fn serve(&self, jobs: impl Iterator<Item = Job>) -> io::Result<()> {
        let mut workers = self.lock();
        for job in jobs {
            match workers.get_mut(usize::from(job.queue.index)) {
                Some(worker) => worker.serve(job)?,
                None => return Err(io::Error::other("a queue has no I/O thread")),
            }
        }
        Ok(())
    }

    /// Takes the queues away from the threads. Returns how far each was served, but for those that the driver broke.
    pub(super) fn leave_queues(&self, begun: Begun) -> Vec<QueuePosition> {
        let mut workers = self.lock();
        // All threads are told to stop before the first is waited for, so that they finish their requests at the same time.
        workers.iter().for_each(|worker| worker.stop(begun));
        workers
            .iter_mut()
            .filter_map(|worker| worker.wait(begun))
            .collect()
    }

    fn made_workers(&self) -> io::Result<MutexGuard<'_, Vec<Worker>>> {
        let mut workers = self.lock();
        while workers.len() < self.threads() {
            workers.push(Worker::new()?);
        }
        Ok(workers)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
