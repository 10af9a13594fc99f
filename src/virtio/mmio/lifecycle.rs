//! What the machine does with a device, and not its driver: it makes, pauses, saves and stops it. And how the device gets its
//! queues and gives them back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, mem};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_FEATURES_OK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::{FEATURES, MmioTransport, State, power_on_queue};
use crate::interrupt::Interrupt;
use crate::virtio::state::{DeviceState, QueueState, TransportState};
use crate::virtio::{Activation, ActiveQueue, VirtioDevice, VirtioInterrupt};

impl MmioTransport {
    /// A device as after power-on.
    pub fn new(
        memory: Arc<GuestMemoryMmap>,
        interrupt: Interrupt,
        device: Box<dyn VirtioDevice>,
    ) -> io::Result<Self> {
        let sizes = device.queue_max_sizes();
        Ok(Self {
            memory,
            interrupt: VirtioInterrupt::new(interrupt),
            notifiers: device.notifiers()?,
            device_id: device.device_id(),
            features: device.features() | FEATURES,
            log: device.log(),
            state: Mutex::new(State {
                stopped: false,
                paused: Vec::new(),
                device_features_select: 0,
                driver_features_select: 0,
                driver_features: 0,
                queue_select: 0,
                queues: sizes.iter().copied().map(power_on_queue).collect(),
                device: Some(device),
            }),
            device_returned: Condvar::new(),
        })
    }

    /// A device that goes on, from [`MmioTransport::resume`] on, where another one rested. `device` is of the same kind as
    /// that one and over the same backend, and `memory` holds what it held then. Fails if the state is of another device.
    pub fn from_state(
        memory: Arc<GuestMemoryMmap>,
        interrupt: Interrupt,
        device: Box<dyn VirtioDevice>,
        saved: &TransportState,
    ) -> io::Result<Self> {
        let transport = Self::new(memory, interrupt, device)?;
        let mut state = transport.lock();
        // Before that a driver may ask for anything.
        let is_agreed = saved.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if saved.queues.len() != state.queues.len()
            || is_agreed && !transport.agrees_on(saved.driver_features)
        {
            return Err(io::Error::other(
                "the state is of a device with other queues or features",
            ));
        }
        let State { device, queues, .. } = &mut *state;
        if let Some(device) = device {
            if is_agreed {
                device.features_accepted(saved.driver_features);
            }
            device.restore(&saved.device)?;
        }
        for (queue, saved) in queues.iter_mut().zip(&saved.queues) {
            *queue = virtio_queue::QueueState {
                size: saved.size,
                ready: saved.is_ready,
                desc_table: saved.descriptors,
                avail_ring: saved.available,
                used_ring: saved.used,
                next_avail: saved.next_available,
                next_used: saved.next_used,
                ..*queue
            };
        }
        state.paused = (0..)
            .zip(&saved.queues)
            .filter_map(|(index, queue)| queue.is_served.then_some(index))
            .collect();
        state.device_features_select = saved.device_features_select;
        state.driver_features_select = saved.driver_features_select;
        state.driver_features = saved.driver_features;
        state.queue_select = saved.queue_select;
        let shared = &transport.interrupt.0;
        shared.status.store(saved.status, Ordering::SeqCst);
        shared.pending.store(saved.interrupt_status, Ordering::SeqCst);
        drop(state);
        Ok(transport)
    }

    /// What the transport and its device hold during a pause. An edge of the interrupt is not part of it: that is with the
    /// guest's interrupt controller already.
    pub fn state(&self) -> TransportState {
        let state = self.lock();
        let queue = |(index, queue): (u16, &virtio_queue::QueueState)| QueueState {
            size: queue.size,
            is_ready: queue.ready,
            descriptors: queue.desc_table,
            available: queue.avail_ring,
            used: queue.used_ring,
            is_served: state.paused.contains(&index),
            next_available: queue.next_avail,
            next_used: queue.next_used,
        };
        TransportState {
            device_features_select: state.device_features_select,
            driver_features_select: state.driver_features_select,
            driver_features: state.driver_features,
            queue_select: state.queue_select,
            status: self.status(),
            interrupt_status: self.interrupt.0.pending.load(Ordering::SeqCst),
            queues: (0..).zip(&state.queues).map(queue).collect(),
            device: state
                .device
                .as_ref()
                .map_or(DeviceState::Stateless, |device| device.state()),
        }
    }

    /// Makes what the device will need, before the guest runs.
    pub fn prepare(&self) -> io::Result<()> {
        match &mut self.lock().device {
            Some(device) => device.prepare(),
            None => Ok(()),
        }
    }

    /// Stops the device for good. After this returns, the device accesses neither guest memory nor its queues.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        drop(self.with_device(state, |device| device.reset()));
    }

    /// Has the device complete what it has begun, and rest until [`MmioTransport::resume`]. After this returns, the device
    /// accesses neither guest memory nor its queues. Meanwhile no vCPU may run.
    pub fn pause(&self) {
        let (mut state, positions) = self.with_device(self.lock(), |device| device.quiesce());
        for position in &positions {
            if let Some(queue) = state.queues.get_mut(usize::from(position.queue)) {
                queue.next_avail = position.next_available;
                queue.next_used = position.next_used;
            }
        }
        state.paused = positions.iter().map(|position| position.queue).collect();
    }

    /// Lets a device that rests go on where it was.
    pub fn resume(&self) {
        let mut state = self.lock();
        let served = mem::take(&mut state.paused);
        if !served.is_empty() && !state.stopped {
            self.activate(state, |queue| served.contains(&queue));
        }
    }

    /// Makes the device stop, by `stop`. The lock is released meanwhile, so that other vCPUs do not wait for the device's I/O.
    pub(super) fn with_device<'a, T>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        stop: impl FnOnce(&mut dyn VirtioDevice) -> T,
    ) -> (MutexGuard<'a, State>, T) {
        let mut device = loop {
            match state.device.take() {
                Some(device) => break device,
                // Another thread is doing this.
                None => {
                    state = self
                        .device_returned
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        };
        drop(state);
        let stopped = stop(device.as_mut());
        let mut state = self.lock();
        state.device = Some(device);
        self.device_returned.notify_one();
        (state, stopped)
    }

    pub(super) fn reset<'a>(&'a self, state: MutexGuard<'a, State>) {
        let (mut state, ()) = self.with_device(state, |device| device.reset());
        state.paused.clear();
        state.forget_driver();
        self.interrupt.0.pending.store(0, Ordering::SeqCst);
        // The status comes last, because a driver that polls for 0 goes on as soon as it reads it (section 2.4.1).
        self.interrupt.0.status.store(0, Ordering::SeqCst);
    }

    /// Gives the device those of its queues that are ready and `wanted`.
    pub(super) fn activate(&self, mut state: MutexGuard<'_, State>, wanted: impl Fn(u16) -> bool) {
        let features = state.driver_features;
        let activated = self
            .active_queues(&state.queues, features)
            .and_then(|mut queues| {
                queues.retain(|queue| wanted(queue.index));
                let device = state
                    .device
                    .as_mut()
                    .ok_or_else(|| io::Error::other("the device is being reset"))?;
                device.activate(Activation {
                    memory: self.memory.clone(),
                    queues,
                    features,
                    interrupt: self.interrupt.clone(),
                })
            });
        if let Err(error) = activated {
            let line = format_args!(
                "virtio device {}: the driver must reset it: {error}",
                self.device_id
            );
            self.log.log(log::Level::Warn, line);
            self.interrupt.need_reset();
        }
    }

    fn active_queues(
        &self,
        states: &[virtio_queue::QueueState],
        features: u64,
    ) -> io::Result<Vec<ActiveQueue>> {
        let mut queues = Vec::with_capacity(states.len());
        for (index, (state, notifier)) in states.iter().zip(&self.notifiers).enumerate() {
            if !state.ready {
                continue;
            }
            let event_idx_enabled = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
            let queue = Queue::try_from(virtio_queue::QueueState {
                event_idx_enabled,
                ..*state
            })
            .map_err(|error| io::Error::other(format!("queue {index}: {error}")))?;
            if !queue.is_valid(self.memory.as_ref()) {
                return Err(io::Error::other(format!("queue {index} leaves guest memory")));
            }
            queues.push(ActiveQueue {
                index: index as u16,
                queue,
                notifier: notifier.clone(),
            });
        }
        Ok(queues)
    }
}
