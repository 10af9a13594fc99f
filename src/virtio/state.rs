//! What a virtio device holds, as plain data: taken while the device rests, and all that is needed to make an equal device
//! over the same backend.

use std::io;

/// What a transport holds, and its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportState {
    pub device_features_select: u32,
    pub driver_features_select: u32,
    /// The feature bits that the driver accepted.
    pub driver_features: u64,
    pub queue_select: u32,
    /// Device status, virtio 1.2 section 2.1.
    pub status: u32,
    /// InterruptStatus, section 4.2.2.
    pub interrupt_status: u32,
    /// All queues of the device, in order.
    pub queues: Vec<QueueState>,
    pub device: DeviceState,
}

/// A queue as its driver describes it, and how far it was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    pub size: u16,
    pub is_ready: bool,
    /// Guest addresses of its three parts.
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    /// Whether the device goes on to serve it.
    pub is_served: bool,
    /// The index in the available ring that is taken next.
    pub next_available: u16,
    /// The index in the used ring that is written next. No request is taken that is not completed.
    pub next_used: u16,
}

/// What a device holds beside its queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// Nothing.
    Stateless,
    Block {
        /// A field of the configuration (section 5.2.4): whether a write may complete before it is durable.
        writeback: bool,
    },
}

/// The error of a device that cannot take over a state.
pub(super) fn of_another_kind() -> io::Error {
    io::Error::other("the state is of a device of another kind")
}
