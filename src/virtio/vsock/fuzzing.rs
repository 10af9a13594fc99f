//! What fuzz targets do with the device's part on the host: its work, on their own thread.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Backend;
use super::backend::pass;
use super::connector::Connector;
use super::queues::{QueueError, Queues};
use crate::interrupt::Interrupt;
use crate::virtio::buffers::Buffers;
use crate::virtio::{ActiveQueue, QueuePosition, VirtioInterrupt};

/// How far the queues were served.
pub struct Served {
    pub positions: Vec<QueuePosition>,
    /// Whether there is more work that waits for no event.
    pub has_work: bool,
}

impl Backend {
    /// One that serves no guest yet. Whoever has the other end of `connector` answers the calls of guests.
    pub fn of_parts(cid: u32, listener: UnixListener, connector: UnixStream) -> io::Result<Self> {
        connector.set_nonblocking(true)?;
        Self::new(cid, Some(listener), Some(Connector::of(connector)))
    }

    /// Does the work that there is with these queues in order, in `passes` passes at most. Fails if the driver broke a queue.
    pub fn serve_passes(
        &self,
        queues: Vec<Queue>,
        memory: &GuestMemoryMmap,
        passes: u32,
    ) -> io::Result<Served> {
        let interrupt = VirtioInterrupt::new(Interrupt::new(|| Ok(())));
        // Nobody waits for notifications here.
        let notifier = Arc::new(EventFd::new(libc::EFD_CLOEXEC)?);
        let active: Vec<_> = (0..)
            .zip(queues)
            .map(|(index, queue)| ActiveQueue {
                index,
                queue,
                notifier: notifier.clone(),
            })
            .collect();
        let mut worker = self.lock();
        let muxer = worker.muxer.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let broken = |error: QueueError| io::Error::other(error);
        let mut queues = Queues::new(memory, &active, &interrupt).map_err(broken)?;
        let mut data = Buffers::default();
        let mut has_work = true;
        for _ in 0..passes {
            has_work = pass(muxer, &mut queues, &mut data).map_err(broken)?;
            has_work |= muxer.wait(true)? > 0;
            if !has_work {
                break;
            }
        }
        Ok(Served {
            positions: queues.positions(),
            has_work,
        })
    }

    /// What a reset of the device does.
    pub fn forget_guest(&self) {
        if let Some(muxer) = &mut self.lock().muxer {
            muxer.forget_guest();
        }
    }

    /// How many connections there are, and how many bytes wait for the host in all of them.
    pub fn held(&self) -> (usize, usize) {
        self.lock().muxer.as_mut().map_or((0, 0), |muxer| muxer.held())
    }
}
