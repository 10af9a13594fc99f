//! The entropy device (virtio 1.2 section 5.4): random bytes from the host's kernel.
//!
//! The device has no thread of its own. A request is less work than waking a thread, and its size is limited, so the vCPU
//! that notifies the device serves it.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};

use super::log_limit::LogLimit;
use super::{Activation, QueuePosition, VirtioDevice, VirtioInterrupt};

/// Linux never has more than one request in flight.
const QUEUE_SIZE: u16 = 8;
/// The most bytes that a request gets: as many as getrandom(2) returns without being interrupted. Linux asks for 64.
const REQUEST_MAX: usize = 256;

/// A source of random bytes for the guest.
#[derive(Default)]
pub struct Entropy {
    served: Option<ServedQueue>,
    log: Arc<LogLimit>,
}

impl Entropy {
    /// A device whose log lines count against `log`.
    pub fn new(log: Arc<LogLimit>) -> Self {
        Self { served: None, log }
    }

    fn serve_queue(&mut self) {
        let Some(served) = &mut self.served else { return };
        if let Err(error) = served.serve() {
            let line = format_args!("entropy device: the driver must reset it: {error}");
            self.log.log(log::Level::Warn, line);
            served.interrupt.need_reset();
            self.served = None;
        }
    }
}

impl VirtioDevice for Entropy {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn log(&self) -> Arc<LogLimit> {
        self.log.clone()
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    /// The device has no configuration space.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation {
            memory,
            mut queues,
            interrupt,
            ..
        } = activation;
        let queue = queues
            .pop()
            .ok_or_else(|| io::Error::other("its queue is not ready"))?;
        self.served = Some(ServedQueue {
            memory,
            queue: queue.queue,
            interrupt,
        });
        // The driver need not send a notification for requests that it made available before DRIVER_OK.
        self.serve_queue();
        Ok(())
    }

    fn serve(&mut self, _queue: u16) -> bool {
        self.serve_queue();
        true
    }

    fn quiesce(&mut self) -> Vec<QueuePosition> {
        let position = |served: ServedQueue| QueuePosition {
            queue: 0,
            next_available: served.queue.next_avail(),
            next_used: served.queue.next_used(),
        };
        self.served.take().map(position).into_iter().collect()
    }

    fn reset(&mut self) {
        self.served = None;
    }
}

struct ServedQueue {
    memory: Arc<GuestMemoryMmap>,
    queue: Queue,
    interrupt: VirtioInterrupt,
}

/// A fault after which the device needs a reset (section 2.1.2).
#[derive(Debug, thiserror::Error)]
enum QueueError {
    #[error(transparent)]
    Ring(#[from] virtio_queue::Error),
    #[error("more descriptor chains are available than its queue has room for")]
    TooMany,
    #[error("a descriptor chain loops, is longer than its queue, or leaves its table")]
    Endless,
    #[error("a descriptor chain has no byte that could be written to")]
    NothingWritable,
    #[error("this host gives no random bytes: {0}")]
    Random(io::Error),
}

impl ServedQueue {
    fn serve(&mut self) -> Result<(), QueueError> {
        let chains = self.take_available()?;
        let next_used = self.queue.next_used();
        let filled = self.fill_all(chains);
        // The driver is notified also of the chains that were completed before a broken one.
        if self.queue.next_used() != next_used && self.queue.needs_notification(&*self.memory)? {
            self.interrupt.notify_used();
        }
        filled
    }

    /// Takes all available chains, and asks for a notification of the next. No chain is given back meanwhile, so there can be
    /// no more of them than the queue's size: a driver that makes more available from another vCPU gets an error, and cannot
    /// keep this loop running.
    fn take_available(&mut self) -> Result<Vec<Chain>, QueueError> {
        let mut chains = Vec::new();
        while self.queue.enable_notification(&*self.memory)? {
            chains.extend(self.queue.iter(self.memory.clone())?);
            if chains.len() > self.queue.size().into() {
                return Err(QueueError::TooMany);
            }
        }
        Ok(chains)
    }

    fn fill_all(&mut self, chains: Vec<Chain>) -> Result<(), QueueError> {
        for chain in chains {
            let head = chain.head_index();
            let length = fill(&self.memory, chain, self.queue.size())?;
            self.queue.add_used(&*self.memory, head, length)?;
        }
        Ok(())
    }
}

type Chain = DescriptorChain<Arc<GuestMemoryMmap>>;

/// Fills the first writable bytes of `chain`, up to the first byte that is not in guest memory and [`REQUEST_MAX`] at most.
/// Returns how many were filled. A chain may have at most `limit` descriptors, the queue's size (section 2.7.5.3.1).
fn fill(memory: &GuestMemoryMmap, chain: Chain, limit: u16) -> Result<u32, QueueError> {
    let mut random = [0; REQUEST_MAX];
    let (mut filled, mut room, mut ended) = (0, REQUEST_MAX, false);
    for descriptor in chain.take(limit.into()) {
        ended = !descriptor.has_next();
        let wanted = room.min(descriptor.len() as usize);
        if !descriptor.is_write_only() || wanted == 0 {
            continue;
        }
        fill_random(&mut random[..wanted]).map_err(QueueError::Random)?;
        let written = memory.write(&random[..wanted], descriptor.addr()).unwrap_or(0);
        filled += written;
        room = if written == wanted { room - wanted } else { 0 };
    }
    match (ended, filled) {
        (false, _) => Err(QueueError::Endless),
        (true, 0) => Err(QueueError::NothingWritable),
        (true, filled) => Ok(filled as u32),
    }
}

/// Whether the host's kernel has random numbers. Soon after its start it may not, and once it has, it always will. A device of a
/// host without any would hold up the vCPU that asks.
pub fn host_is_ready() -> bool {
    fill_random(&mut [0]).is_ok()
}

/// Fills `bytes`, [`REQUEST_MAX`] at most, by the system call itself: a library might open /dev/urandom, which a confined process
/// cannot.
fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: the call writes at most as many bytes as there are.
    match unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) } {
        -1 => Err(io::Error::last_os_error()),
        count if count as usize == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
#[path = "entropy_test.rs"]
mod tests;

#[cfg(test)]
mod hostile_test;
