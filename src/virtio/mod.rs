//! Devices of virtio 1.2 and the transport they sit behind.
//!
//! A device is a folder here that implements [`VirtioDevice`]. It names neither the transport nor the
//! machine: what it needs of them arrives in [`Activation`] and leaves with [`VirtioDevice::reset`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::Interrupt;

/// Disks: a raw image or a block device of the host.
pub mod block;
/// Random bytes.
pub mod entropy;
mod log_limit;
/// The transport: registers in guest memory space.
pub mod mmio;
mod recent_memory;
mod split_queue;

#[cfg(test)]
mod test_driver;

/// What a virtio device is to its transport.
pub trait VirtioDevice: Send {
    /// Device ID, virtio 1.2 section 5.
    fn device_id(&self) -> u32;

    /// Largest size of each queue, powers of two up to 32768.
    fn queue_max_sizes(&self) -> &[u16];

    /// The device's own feature bits. The transport adds the ones that are its own to offer.
    fn features(&self) -> u64;

    /// The driver and the device agreed on these feature bits: FEATURES_OK.
    fn features_accepted(&mut self, _features: u64) {}

    /// Reads the configuration space. `data` arrives zeroed: bytes past the end of the space stay so.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. What is read-only or past the end ignores it.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The driver set DRIVER_OK: from here the device owns its queues, until [`VirtioDevice::reset`].
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// Serves a queue on the thread of the vCPU that notified it, if the device's work is so short. `false` leaves it to
    /// whoever waits for [`ActiveQueue::notifier`].
    fn serve(&mut self, _queue: u16) -> bool {
        false
    }

    /// Lets go of the queues and of guest memory, whatever is in flight, before it returns. May block.
    fn reset(&mut self);
}

/// What a device works with while its driver drives it.
pub struct Activation {
    pub memory: Arc<GuestMemoryMmap>,
    /// The queues that the driver made ready, in order of their index.
    pub queues: Vec<ActiveQueue>,
    /// Feature bits that driver and device agreed on, the transport's among them.
    pub features: u64,
    pub interrupt: VirtioInterrupt,
}

pub struct ActiveQueue {
    pub index: u16,
    /// Its rings lie in guest memory as a whole; what they contain is not to be trusted.
    pub queue: Queue,
    /// Becomes readable when the driver notifies the queue. Reading it blocks until then.
    pub notifier: EventFd,
}

/// How a device tells its driver of something. Clones speak for the same device.
#[derive(Clone)]
pub struct VirtioInterrupt(Arc<Shared>);

/// The registers that a device's own threads change. No lock: the driver reads them in its interrupt handler.
struct Shared {
    /// Device status, virtio 1.2 section 2.1.
    status: AtomicU32,
    /// InterruptStatus, section 4.2.2.
    pending: AtomicU32,
    line: Interrupt,
}

impl VirtioInterrupt {
    fn new(line: Interrupt) -> Self {
        Self(Arc::new(Shared {
            status: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            line,
        }))
    }

    /// Used buffer notification, section 2.3.
    pub fn notify_used(&self) {
        self.notify(VIRTIO_MMIO_INT_VRING);
    }

    /// DEVICE_NEEDS_RESET and the notification that announces it, section 2.1.2.
    pub fn need_reset(&self) {
        self.0
            .status
            .fetch_or(VIRTIO_CONFIG_S_NEEDS_RESET, Ordering::SeqCst);
        self.notify(VIRTIO_MMIO_INT_CONFIG);
    }

    fn notify(&self, cause: u32) {
        // The cause first: the handler that the edge starts must find it.
        self.0.pending.fetch_or(cause, Ordering::SeqCst);
        if let Err(error) = self.0.line.raise() {
            log::error!("cannot interrupt the guest: {error}");
        }
    }
}
