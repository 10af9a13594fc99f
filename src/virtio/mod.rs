//! Devices of virtio 1.2 and the transport by which a guest reaches them.
//!
//! Each device is a folder here with a type that implements [`VirtioDevice`]. A device names neither the transport nor the
//! machine: it gets what it needs of them in an [`Activation`], and drops that in [`VirtioDevice::quiesce`] and
//! [`VirtioDevice::reset`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::Interrupt;
use log_limit::LogLimit;
use state::DeviceState;

/// Disks: images and block devices of the host.
pub mod block;
mod buffers;
mod chain;
/// Random bytes.
pub mod entropy;
/// How many log lines a device may cause.
pub mod log_limit;
/// The transport: registers at guest addresses.
pub mod mmio;
mod recent_memory;
mod split_queue;
/// What a device holds, as plain data.
pub mod state;
mod traffic;
/// Streams of bytes between programs of the guest and of the host.
pub mod vsock;

#[cfg(test)]
mod test_driver;

/// A virtio device as its transport uses it.
pub trait VirtioDevice: Send {
    /// Device ID, virtio 1.2 section 5.
    fn device_id(&self) -> u32;

    /// The limit for the log lines of the device and its transport.
    fn log(&self) -> Arc<LogLimit>;

    /// Largest size of each queue, powers of two up to 32768.
    fn queue_max_sizes(&self) -> &[u16];

    /// The feature bits of the device. The transport adds those that it offers itself.
    fn features(&self) -> u64;

    /// Tells the device which feature bits the driver accepted: the driver has set FEATURES_OK.
    fn features_accepted(&mut self, _features: u64) {}

    /// Reads the configuration space into `data`, which is zero before. Bytes past the end of the space stay zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the configuration space. Writes to read-only fields and past the end are ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The eventfd of each queue, which becomes readable when the driver notifies the queue. Their reads block.
    fn notifiers(&self) -> io::Result<Vec<Arc<EventFd>>> {
        let notifier = |_: &u16| EventFd::new(libc::EFD_CLOEXEC).map(Arc::new);
        self.queue_max_sizes().iter().map(notifier).collect()
    }

    /// Makes what the device will need once a driver drives it, such as threads. Called before the guest runs, because a
    /// failure in [`VirtioDevice::activate`] leaves the guest without the device.
    fn prepare(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Gives the device its queues, because the driver has set DRIVER_OK or a pause has ended. The device has them until
    /// [`VirtioDevice::quiesce`] or [`VirtioDevice::reset`].
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// Serves a queue on the thread of the vCPU that notified it. A device whose work takes longer than waking a thread
    /// returns `false` instead; then the transport wakes the thread that waits for [`ActiveQueue::notifier`].
    fn serve(&mut self, _queue: u16) -> bool {
        false
    }

    /// What the device holds beside its queues.
    fn state(&self) -> DeviceState {
        DeviceState::Stateless
    }

    /// Takes over what a device of the same kind held. Called after [`VirtioDevice::features_accepted`] if the driver of that
    /// device had set FEATURES_OK. Fails for a state of another kind.
    fn restore(&mut self, state: &DeviceState) -> io::Result<()> {
        match state {
            DeviceState::Stateless => Ok(()),
            _ => Err(state::of_another_kind()),
        }
    }

    /// Completes the requests that it has taken, takes no other, and stops using the queues and guest memory before it
    /// returns. May block. Returns how far each queue was served, from where an activation can go on; a queue that the driver
    /// broke is not among them.
    fn quiesce(&mut self) -> Vec<QueuePosition>;

    /// Stops using the queues and guest memory, also for requests in flight, before it returns. May block.
    fn reset(&mut self);
}

/// How far a queue was served. No request is taken that is not completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePosition {
    /// The queue's index.
    pub queue: u16,
    /// The index in the available ring that is taken next.
    pub next_available: u16,
    /// The index in the used ring that is written next.
    pub next_used: u16,
}

/// What a device works with from DRIVER_OK until its reset.
pub struct Activation {
    pub memory: Arc<GuestMemoryMmap>,
    /// The queues that the driver made ready, in order of their index.
    pub queues: Vec<ActiveQueue>,
    /// The feature bits that the driver accepted, with those of the transport.
    pub features: u64,
    pub interrupt: VirtioInterrupt,
}

pub struct ActiveQueue {
    pub index: u16,
    /// The transport has checked that its rings lie in guest memory. Their content cannot be trusted.
    pub queue: Queue,
    /// Becomes readable when the driver notifies the queue. Reading it blocks until then.
    pub notifier: Arc<EventFd>,
}

/// Notifies the driver of a device. A clone belongs to the same device.
#[derive(Clone)]
pub struct VirtioInterrupt(Arc<InterruptRegisters>);

/// The registers that a device's own threads change. They are atomic, without a lock, because the driver reads them in its
/// interrupt handler and must not wait for a thread of the device.
struct InterruptRegisters {
    /// Device status, virtio 1.2 section 2.1.
    status: AtomicU32,
    /// InterruptStatus, section 4.2.2.
    pending: AtomicU32,
    line: Interrupt,
}

impl VirtioInterrupt {
    fn new(line: Interrupt) -> Self {
        Self(Arc::new(InterruptRegisters {
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
        // The cause is set first, because the interrupt handler reads it as soon as the line is raised.
        self.0.pending.fetch_or(cause, Ordering::SeqCst);
        if let Err(error) = self.0.line.raise() {
            log::error!("cannot interrupt the guest: {error}");
        }
    }
}
