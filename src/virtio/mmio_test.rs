use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use proptest::prelude::*;
use virtio_queue::QueueT;

use super::*;
use crate::interrupt::Interrupt;
use crate::virtio::log_limit::LogLimit;
use crate::virtio::state::{DeviceState, TransportState};
use crate::virtio::test_driver::*;
use crate::virtio::{Activation, ActiveQueue, QueuePosition};

/// Whatever a driver writes.
#[path = "mmio_any_access_test.rs"]
mod any_access;

/// Devices that rest, and devices made anew of what those hold.
#[path = "mmio_rest_test.rs"]
mod rest;

const DEVICE_FEATURE: u64 = 1 << 5;
const ALL_FEATURES: u64 = DEVICE_FEATURE | FEATURES;
const SIZES: [u16; 2] = [8, 256];
const QUEUE_0: [u64; 3] = [DESCRIPTORS, AVAILABLE, USED];

/// A device that does nothing but record what its transport calls.
#[derive(Default)]
struct Fake {
    log: Arc<FakeLog>,
    config: [u8; 6],
    refuses_activation: bool,
    /// The queue that its driver breaks before it rests.
    breaks: Option<u16>,
    /// In a reset, sends on the first channel and waits for the second.
    reset_gate: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
}

#[derive(Default)]
struct FakeLog {
    activation: Mutex<Option<Activation>>,
    resets: AtomicUsize,
}

impl FakeLog {
    fn active(&self) -> bool {
        self.activation.lock().unwrap().is_some()
    }
}

impl VirtioDevice for Fake {
    fn device_id(&self) -> u32 {
        42
    }

    fn log(&self) -> Arc<LogLimit> {
        Arc::default()
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &SIZES
    }

    fn features(&self) -> u64 {
        DEVICE_FEATURE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let rest = self.config.iter().skip(offset as usize);
        data.iter_mut().zip(rest).for_each(|(byte, value)| *byte = *value);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let rest = self.config.iter_mut().skip(offset as usize);
        rest.zip(data).for_each(|(byte, value)| *byte = *value);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        if self.refuses_activation {
            return Err(io::Error::other("no"));
        }
        *self.log.activation.lock().unwrap() = Some(activation);
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<QueuePosition> {
        let activation = self.log.activation.lock().unwrap().take();
        let queues = activation.map(|activation| activation.queues).unwrap_or_default();
        // As if it had served as many requests as the queue's number and seven more.
        let served = |queue: &ActiveQueue| QueuePosition {
            queue: queue.index,
            next_available: queue.queue.next_avail().wrapping_add(queue.index + 7),
            next_used: queue.queue.next_used().wrapping_add(queue.index + 7),
        };
        let kept = |queue: &&ActiveQueue| Some(queue.index) != self.breaks;
        queues.iter().filter(kept).map(served).collect()
    }

    fn reset(&mut self) {
        if let Some((entered, leave)) = &self.reset_gate {
            entered.send(()).unwrap();
            leave.recv().unwrap();
        }
        self.log.activation.lock().unwrap().take();
        self.log.resets.fetch_add(1, Ordering::SeqCst);
    }
}

fn fake() -> (Driver, Arc<FakeLog>) {
    let device = Fake::default();
    let log = device.log.clone();
    (Driver::new(Box::new(device)), log)
}

#[test]
fn the_identity_registers_are_those_of_the_specification() {
    let (driver, _) = fake();
    assert_eq!(driver.read(0x000), 0x74726976);
    assert_eq!(driver.read(0x004), 2);
    assert_eq!(driver.read(0x008), 42);
    assert_eq!(&driver.read(0x00c).to_le_bytes(), b"CRCL");
    assert_eq!(driver.read(0x0fc), 0);
}

#[test]
fn features_are_the_devices_and_the_transports_and_words_past_the_second_are_empty() {
    let (driver, _) = fake();
    assert_eq!(driver.features(), ALL_FEATURES);
    for select in [2, 3, u32::MAX] {
        driver.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
        assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    }
}

#[test]
fn features_ok_is_refused_without_version_1_and_with_features_not_offered() {
    for (features, agreed) in [
        (0, false),
        (DEVICE_FEATURE, false),
        (VERSION_1, true),
        (ALL_FEATURES, true),
        (VERSION_1 | 1 << 6, false),
        (VERSION_1 | 1 << 63, false),
    ] {
        assert_eq!(fake().0.negotiate(features), agreed, "{features:#x}");
    }
}

#[test]
fn features_ok_is_refused_before_driver() {
    let (driver, _) = fake();
    driver.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    driver.write(
        VIRTIO_MMIO_STATUS,
        VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_FEATURES_OK,
    );
    assert_eq!(driver.status(), VIRTIO_CONFIG_S_ACKNOWLEDGE);
    driver.add_status(VIRTIO_CONFIG_S_DRIVER);
    driver.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
    assert_eq!(driver.status(), 11);
}

#[test]
fn features_are_frozen_by_features_ok() {
    let (mut driver, log) = fake();
    assert!(driver.negotiate(VERSION_1));
    driver.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    driver.write(VIRTIO_MMIO_DRIVER_FEATURES, u32::MAX);
    driver.set_up_queue(8);
    driver.driver_ok();
    assert_eq!(
        log.activation.lock().unwrap().as_ref().unwrap().features,
        VERSION_1
    );
}

#[test]
fn driver_ok_without_features_ok_starts_nothing() {
    let (driver, log) = fake();
    driver.write(VIRTIO_MMIO_STATUS, 7);
    assert_eq!(driver.status(), 3);
    driver.write(VIRTIO_MMIO_STATUS, 15);
    assert!(!log.active());
    assert_eq!(driver.status(), 3);
}

#[test]
fn status_bits_are_not_taken_back_one_by_one_and_failed_is_final() {
    let (mut driver, log) = fake();
    assert!(driver.negotiate(VERSION_1));
    driver.write(VIRTIO_MMIO_STATUS, 1);
    assert_eq!(driver.status(), 11);
    driver.add_status(VIRTIO_CONFIG_S_FAILED);
    driver.driver_ok();
    assert_eq!(driver.status(), 11 | VIRTIO_CONFIG_S_FAILED);
    assert!(!log.active());
    driver.reset();
    driver.start(VERSION_1, 8);
    assert!(log.active());
}

#[test]
fn the_device_gets_the_ready_queues_as_the_driver_described_them() {
    let (mut driver, log) = fake();
    assert!(driver.negotiate(ALL_FEATURES));
    driver.describe_queue(
        1,
        16,
        [HIGH_MEMORY + 0x100, HIGH_MEMORY + 0x402, HIGH_MEMORY + 0x804],
    );
    driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 1);
    driver.driver_ok();
    let activation = log.activation.lock().unwrap();
    let activation = activation.as_ref().unwrap();
    assert_eq!(activation.features, ALL_FEATURES);
    let [active] = activation.queues.as_slice() else {
        panic!("not one queue")
    };
    assert_eq!((active.index, active.queue.size()), (1, 16));
    assert_eq!(active.queue.desc_table(), HIGH_MEMORY + 0x100);
    assert_eq!(active.queue.avail_ring(), HIGH_MEMORY + 0x402);
    assert_eq!(active.queue.used_ring(), HIGH_MEMORY + 0x804);
    assert!(active.queue.event_idx_enabled());
}

#[test]
fn a_queue_that_cannot_be_makes_the_device_need_a_reset() {
    let [descriptors, available, used] = QUEUE_0;
    for (size, rings) in [
        (0, QUEUE_0),
        (3, QUEUE_0),
        (16, QUEUE_0),
        (0x1_0008, QUEUE_0),
        (8, [descriptors + 8, available, used]),
        (8, [descriptors, available + 1, used]),
        (8, [descriptors, available, used + 2]),
        (8, [HOLE, available, used]),
        (8, [descriptors, HOLE - 4, used]),
        (8, [descriptors, available, HOLE - 8]),
        (8, [u64::MAX << 4, available, used]),
        (8, [descriptors, u64::MAX - 1, used]),
        (8, [descriptors, available, u64::MAX - 3]),
    ] {
        let (mut driver, log) = fake();
        assert!(driver.negotiate(VERSION_1));
        driver.describe_queue(0, size, rings);
        driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert!(!driver.interrupted());
        driver.driver_ok();
        assert!(driver.needs_reset(), "{size:#x} {rings:x?}");
        assert_eq!(driver.wait(), VIRTIO_MMIO_INT_CONFIG);
        assert!(!log.active());
        driver.reset();
        driver.start(VERSION_1, 8);
        assert!(log.active());
    }
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    let mut driver = Driver::new(Box::new(Fake {
        refuses_activation: true,
        ..Default::default()
    }));
    assert!(driver.negotiate(VERSION_1));
    driver.set_up_queue(8);
    driver.driver_ok();
    assert_eq!(driver.wait(), VIRTIO_MMIO_INT_CONFIG);
    assert_eq!(driver.status(), 15 | VIRTIO_CONFIG_S_NEEDS_RESET);
}

#[test]
fn a_ready_queue_is_not_changed() {
    let (mut driver, log) = fake();
    assert!(driver.negotiate(VERSION_1));
    driver.set_up_queue(8);
    driver.describe_queue(0, 4, [0, 0, 0]);
    driver.driver_ok();
    let activation = log.activation.lock().unwrap();
    let queue = &activation.as_ref().unwrap().queues[0].queue;
    assert_eq!((queue.size(), queue.desc_table()), (8, DESCRIPTORS));
}

#[test]
fn queues_that_do_not_exist_have_no_size_and_ignore_writes() {
    let (mut driver, _) = fake();
    for (index, size) in [(0, 8), (1, 256), (2, 0), (u32::MAX, 0)] {
        driver.write(VIRTIO_MMIO_QUEUE_SEL, index);
        assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX), size);
    }
    driver.describe_queue(2, 8, QUEUE_0);
    driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn no_queue_becomes_ready_after_driver_ok() {
    let (mut driver, _) = fake();
    driver.start(VERSION_1, 8);
    driver.describe_queue(1, 8, QUEUE_0);
    driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn a_queue_that_stops_being_ready_stops_the_device() {
    let (mut driver, log) = fake();
    driver.start(VERSION_1, 8);
    driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
    assert!(!log.active());
    assert!(driver.needs_reset());
    driver.reset();
    driver.start(VERSION_1, 8);
    assert!(log.active());
}

#[test]
fn a_reset_stops_the_device_and_forgets_the_driver() {
    let (mut driver, log) = fake();
    driver.start(VERSION_1, 8);
    log.activation
        .lock()
        .unwrap()
        .as_ref()
        .unwrap()
        .interrupt
        .notify_used();
    driver.reset();
    assert_eq!(log.resets.load(Ordering::SeqCst), 1);
    assert!(!log.active());
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
    // The features of before are gone too.
    driver.write(VIRTIO_MMIO_STATUS, 3);
    driver.write(VIRTIO_MMIO_STATUS, 11);
    assert_eq!(driver.status(), 3);
}

#[test]
fn interrupt_causes_stay_until_each_is_acknowledged() {
    let (mut driver, log) = fake();
    driver.start(VERSION_1, 8);
    let interrupt = log.activation.lock().unwrap().as_ref().unwrap().interrupt.clone();
    interrupt.notify_used();
    interrupt.need_reset();
    assert!(driver.interrupted());
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, u32::MAX);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_notification_reaches_its_queue_and_no_other() {
    let (driver, _) = fake();
    let notifiers = driver.transport.queue_notifiers();
    assert_eq!(notifiers.len(), 2);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 2);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, u32::MAX);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    assert_eq!(notifiers[1].read().unwrap(), 2);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(notifiers[0].read().unwrap(), 1);
}

#[test]
fn registers_are_accessed_whole_or_not_at_all() {
    let (driver, _) = fake();
    for (offset, width) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0xfe, 4)] {
        let mut data = vec![0xff; width];
        driver.transport.read(offset, &mut data);
        assert_eq!(data, vec![0xff; width], "{offset} {width}");
    }
    driver.transport.write(VIRTIO_MMIO_STATUS.into(), &[1]);
    driver
        .transport
        .write(VIRTIO_MMIO_STATUS.into(), &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.status(), 0);
}

#[test]
fn the_configuration_is_accessed_in_any_width_and_is_zero_past_its_end() {
    let (driver, _) = fake();
    driver.transport.write(0x100, &[1, 2, 3, 4]);
    driver.transport.write(0x104, &[5, 6, 7, 8]);
    for (offset, expected) in [
        (0x100, &[1, 2, 3, 4, 5, 6, 0, 0][..]),
        (0x101, &[2]),
        (0x103, &[4, 5]),
        (0x105, &[6, 0, 0, 0]),
        (0xfff, &[0]),
    ] {
        let mut data = vec![0xff; expected.len()];
        driver.transport.read(offset, &mut data);
        assert_eq!(data, expected, "{offset:#x}");
    }
}

#[test]
fn there_are_no_shared_memory_regions_and_no_queue_reset() {
    let (driver, _) = fake();
    for register in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(driver.read(register), u32::MAX);
    }
    assert_eq!(driver.read(0xc0), 0);
}

#[test]
fn a_stopped_device_never_starts_again() {
    let (mut driver, log) = fake();
    driver.start(VERSION_1, 8);
    driver.transport.stop();
    assert!(!log.active());
    driver.reset();
    assert!(driver.negotiate(VERSION_1));
    driver.set_up_queue(8);
    driver.driver_ok();
    assert!(!log.active());
    driver.transport.stop();
}

#[test]
fn other_vcpus_go_on_while_a_reset_waits_for_the_device() {
    let (entered_sender, entered) = mpsc::channel();
    let (leave, leave_receiver) = mpsc::channel();
    let device = Fake {
        reset_gate: Some((entered_sender, leave_receiver)),
        ..Default::default()
    };
    let log = device.log.clone();
    let mut driver = Driver::new(Box::new(device));
    driver.start(VERSION_1, 8);
    let transport = driver.transport.clone();
    let stopper = driver.transport.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || transport.write(VIRTIO_MMIO_STATUS.into(), &[0; 4]));
        entered.recv().unwrap();
        assert_eq!(driver.status(), 15, "the reset is not over");
        assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
        assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 8);
        assert_eq!(driver.read(0x100), 0);
        driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        // The machine's end waits for the reset, then stops the device itself.
        scope.spawn(move || stopper.stop());
        leave.send(()).unwrap();
        entered.recv().unwrap();
        leave.send(()).unwrap();
    });
    assert_eq!(driver.status(), 0);
    assert_eq!(log.resets.load(Ordering::SeqCst), 2);
}
