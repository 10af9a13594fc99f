//! The socket device (virtio 1.2 section 5.10): streams between programs of the guest and of the host.
//!
//! On the host a connection is a Unix socket: one that a program made to the path of `--vsock`, or one that Coracle itself gives
//! to `Backend::dial` or `Backend::answer`.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::log_limit::LogLimit;
use super::state::{DeviceState, of_another_kind};
use super::{Activation, QueuePosition, VirtioDevice};
pub use backend::{Backend, OpenError};
use backend::{Before, Job};
use queues::QUEUES;
pub use service::ServicePorts;

mod backend;
mod calls;
mod connection;
mod connector;
mod credit;
#[cfg(fuzzing)]
mod fuzzing;
mod greeting;
mod listener;
mod muxer;
mod packet;
mod queues;
mod service;
mod table;

#[cfg(test)]
mod test_guest;

/// Sizes of the queues: receive, transmit, event. Linux fills the first with pages before a program gets its socket, which takes
/// as long as the rest of that; more of them make nothing faster. It gives eight buffers for events.
const QUEUE_SIZES: [u16; QUEUES] = [64, 256, 8];

/// The device through which a guest reaches programs of the host, and is reached by them.
pub struct Vsock {
    backend: Arc<Backend>,
    /// What becomes of connections when the driver runs again.
    before: Before,
}

impl Vsock {
    /// A device that no driver drives yet.
    pub fn new(backend: Arc<Backend>) -> Self {
        Self {
            backend,
            before: Before::default(),
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn log(&self) -> Arc<LogLimit> {
        self.backend.log.clone()
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// Without feature bits there are sockets of the type stream, and no others (section 5.10.3).
    fn features(&self) -> u64 {
        0
    }

    /// The only field is the guest's address (section 5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let bytes = u64::from(self.backend.cid()).to_le_bytes();
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| bytes.get(offset..))
            .unwrap_or_default();
        for (byte, value) in data.iter_mut().zip(rest) {
            *byte = *value;
        }
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Starts the thread.
    fn prepare(&mut self) -> io::Result<()> {
        self.backend.start()
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation {
            memory,
            queues,
            interrupt,
            ..
        } = activation;
        self.prepare()?;
        self.backend.serve(Job {
            memory,
            queues,
            interrupt,
            before: self.before,
        })
    }

    /// The connections of the state's device are not among those of this one.
    fn restore(&mut self, state: &DeviceState) -> io::Result<()> {
        match state {
            DeviceState::Stateless => {
                self.before = Before::Lost;
                Ok(())
            }
            _ => Err(of_another_kind()),
        }
    }

    fn quiesce(&mut self) -> Vec<QueuePosition> {
        let positions = self.backend.leave_queues(true);
        self.before = Before::GoesOn;
        positions
    }

    fn reset(&mut self) {
        self.backend.leave_queues(false);
        self.before = Before::Forgotten;
    }
}

#[cfg(test)]
#[path = "vsock_test.rs"]
mod tests;

#[cfg(test)]
#[path = "ends_test.rs"]
mod ends_tests;

#[cfg(test)]
#[path = "model_test.rs"]
mod model_tests;

#[cfg(test)]
#[path = "hostile_test.rs"]
mod hostile_tests;
