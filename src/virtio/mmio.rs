//! virtio over MMIO, version 2 (virtio 1.2 section 4.2).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueState;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::log_limit::LogLimit;
use super::{VirtioDevice, VirtioInterrupt};
use crate::bus::BusDevice;

mod lifecycle;

/// Offset of QueueNotify. The driver writes a queue's index to it, 4 bytes wide, when there is work in that queue.
pub const QUEUE_NOTIFY: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;
/// "virt" in little endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "CRCL" in little endian.
const VENDOR_ID: u32 = 0x4c43_5243;

const FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A virtio device as the guest sees it.
pub struct MmioTransport {
    memory: Arc<GuestMemoryMmap>,
    interrupt: VirtioInterrupt,
    notifiers: Vec<Arc<EventFd>>,
    device_id: u32,
    /// The feature bits that are offered to the driver.
    features: u64,
    log: Arc<LogLimit>,
    state: Mutex<State>,
    /// Signalled when a reset has ended and the device is in `state` again.
    device_returned: Condvar,
}

struct State {
    /// None while the device is being reset: a reset can block, so the device is taken out and the lock released.
    device: Option<Box<dyn VirtioDevice>>,
    /// Whether the machine is ending: then the device is not activated again.
    stopped: bool,
    /// During a pause, the indices of the queues that the device served before.
    paused: Vec<u16>,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    /// The queues as the driver describes them. They are checked when it sets DRIVER_OK.
    queues: Vec<QueueState>,
}

impl State {
    fn selected_queue(&self) -> Option<&QueueState> {
        self.queues.get(self.queue_select as usize)
    }

    /// Sets everything to the state at power-on (section 2.4).
    fn forget_driver(&mut self) {
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = power_on_queue(queue.max_size);
        }
    }
}

fn power_on_queue(max_size: u16) -> QueueState {
    QueueState {
        max_size,
        size: max_size,
        ..Default::default()
    }
}

impl MmioTransport {
    /// The eventfd of each queue. KVM can write it instead of making an exit when the driver writes the queue's index to
    /// [`QUEUE_NOTIFY`] (ioeventfd, with that index as datamatch).
    pub fn queue_notifiers(&self) -> &[Arc<EventFd>] {
        &self.notifiers
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> u32 {
        self.interrupt.0.status.load(Ordering::SeqCst)
    }

    fn read_register(&self, offset: u64) -> u32 {
        let shared = &self.interrupt.0;
        match offset as u32 {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device_id,
            VIRTIO_MMIO_VENDOR_ID => VENDOR_ID,
            VIRTIO_MMIO_DEVICE_FEATURES => match self.lock().device_features_select {
                0 => self.features as u32,
                1 => (self.features >> 32) as u32,
                _ => 0,
            },
            VIRTIO_MMIO_QUEUE_NUM_MAX => self
                .lock()
                .selected_queue()
                .map_or(0, |queue| queue.max_size.into()),
            VIRTIO_MMIO_QUEUE_READY => self.lock().selected_queue().map_or(0, |queue| queue.ready.into()),
            VIRTIO_MMIO_INTERRUPT_STATUS => shared.pending.load(Ordering::SeqCst),
            VIRTIO_MMIO_STATUS => self.status(),
            // There are no shared memory regions: the length and base of one that does not exist are all ones.
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // The configuration of a device never changes while its driver runs, so the generation never changes.
            VIRTIO_MMIO_CONFIG_GENERATION => 0,
            // This includes QueueReset, since RING_RESET is not offered.
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset as u32 {
            VIRTIO_MMIO_QUEUE_NOTIFY => self.notify_queue(value),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.interrupt.0.pending.fetch_and(!value, Ordering::SeqCst);
            }
            VIRTIO_MMIO_STATUS => self.write_status(value),
            VIRTIO_MMIO_QUEUE_READY => self.write_queue_ready(value),
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.lock().device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.lock().driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.write_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.lock().queue_select = value,
            _ => self.write_queue_register(offset, value),
        }
    }

    /// Handles a notification that became an exit: the device has no ioeventfd, or the write did not match it.
    fn notify_queue(&self, index: u32) {
        let Some(notifier) = self.notifiers.get(index as usize) else {
            return log::debug!("virtio: the driver notified queue {index}, which does not exist");
        };
        let serve = |device: &mut Box<dyn VirtioDevice>| device.serve(index as u16);
        if self.lock().device.as_mut().is_some_and(serve) {
            return;
        }
        if let Err(error) = notifier.write(1) {
            log::debug!("virtio: cannot notify queue {index}: {error}");
        }
    }

    fn write_driver_features(&self, value: u32) {
        let mut state = self.lock();
        // Section 2.2.1: the driver must not change features after it has set FEATURES_OK.
        if self.status() & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            return log::debug!("virtio: the driver changed features after FEATURES_OK: ignored");
        }
        let shift = match state.driver_features_select {
            0 => 0,
            1 => 32,
            select => return log::debug!("virtio: the driver accepted features of word {select}: ignored"),
        };
        state.driver_features &= !(u64::from(u32::MAX) << shift);
        state.driver_features |= u64::from(value) << shift;
    }

    fn write_queue_register(&self, offset: u64, value: u32) {
        let mut state = self.lock();
        let selected = state.queue_select as usize;
        let Some(queue) = state.queues.get_mut(selected) else {
            return;
        };
        if queue.ready {
            return log::debug!("virtio: the driver changed a queue that is ready: ignored");
        }
        match offset as u32 {
            // A size that is too large becomes 0, which is not valid either: the check at DRIVER_OK refuses it.
            VIRTIO_MMIO_QUEUE_NUM => queue.size = value.try_into().unwrap_or(0),
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut queue.desc_table, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut queue.desc_table, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut queue.avail_ring, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut queue.avail_ring, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut queue.used_ring, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut queue.used_ring, value),
            _ => log::debug!("virtio: the driver wrote {value:#x} to register {offset:#x}: ignored"),
        }
    }

    fn write_queue_ready(&self, value: u32) {
        let mut state = self.lock();
        let selected = state.queue_select as usize;
        let active = self.status() & VIRTIO_CONFIG_S_DRIVER_OK != 0;
        let Some(queue) = state.queues.get_mut(selected) else {
            return;
        };
        match value {
            1 if active => log::debug!("virtio: the driver made a queue ready after DRIVER_OK: ignored"),
            1 => queue.ready = true,
            0 if active && queue.ready => {
                queue.ready = false;
                // Section 4.2.2.1: the device must not access a queue that is not ready. Since RING_RESET is not offered,
                // only a reset of the whole device can make the queue ready again, so the whole device stops.
                let _state = self.with_device(state, |device| device.reset());
                self.interrupt.need_reset();
            }
            0 => queue.ready = false,
            _ => log::debug!("virtio: the driver wrote {value} to QueueReady: ignored"),
        }
    }

    /// Takes the steps of a driver's initialization (section 3.1.1).
    fn write_status(&self, value: u32) {
        let mut state = self.lock();
        if value == 0 {
            return self.reset(state);
        }
        let status = self.status();
        let current = status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        if value & current != current || status & VIRTIO_CONFIG_S_FAILED != 0 {
            return log::debug!(
                "virtio: the driver changed its status from {status:#x} to {value:#x}: ignored"
            );
        }
        let mut accepted = value
            & (VIRTIO_CONFIG_S_ACKNOWLEDGE
                | VIRTIO_CONFIG_S_DRIVER
                | VIRTIO_CONFIG_S_FEATURES_OK
                | VIRTIO_CONFIG_S_DRIVER_OK
                | VIRTIO_CONFIG_S_FAILED);
        let known = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
        let agreed = self.agrees_on(state.driver_features);
        if current & VIRTIO_CONFIG_S_FEATURES_OK == 0 && (value & known != known || !agreed) {
            accepted &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        // The driver must read FEATURES_OK back before it sets DRIVER_OK, so the two cannot come in one write.
        if current & VIRTIO_CONFIG_S_FEATURES_OK == 0 || state.device.is_none() || state.stopped {
            accepted &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        let features = state.driver_features;
        if accepted & !current & VIRTIO_CONFIG_S_FEATURES_OK != 0
            && let Some(device) = &mut state.device
        {
            device.features_accepted(features);
        }
        self.interrupt.0.status.fetch_or(accepted, Ordering::SeqCst);
        if accepted & !current & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.activate(state, |_| true);
        }
    }

    /// Whether the driver accepted VERSION_1, and no feature that was not offered (sections 6.1 and 2.2).
    fn agrees_on(&self, driver_features: u64) -> bool {
        driver_features & !self.features == 0 && driver_features & 1 << VIRTIO_F_VERSION_1 != 0
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & u64::from(u32::MAX) | u64::from(value) << 32;
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            data.fill(0);
            if let Some(device) = &self.lock().device {
                device.read_config(offset, data);
            }
            return;
        }
        // Section 4.2.2.2: registers are 32 bits wide and aligned.
        match <&mut [u8; 4]>::try_from(data) {
            Ok(data) if offset.is_multiple_of(4) => *data = self.read_register(offset).to_le_bytes(),
            _ => log::debug!("virtio: the driver read part of the register at {offset:#x}: ignored"),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            if let Some(device) = &mut self.lock().device {
                device.write_config(offset, data);
            }
            return;
        }
        match <[u8; 4]>::try_from(data) {
            Ok(data) if offset.is_multiple_of(4) => self.write_register(offset, u32::from_le_bytes(data)),
            _ => log::debug!("virtio: the driver wrote part of the register at {offset:#x}: ignored"),
        }
    }
}

#[cfg(test)]
#[path = "mmio_test.rs"]
mod tests;
