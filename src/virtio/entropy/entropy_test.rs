use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_VRING, VIRTIO_MMIO_QUEUE_NUM_MAX};

use super::*;
use crate::virtio::test_driver::*;

/// The content of buffers before the device fills them.
const NOT_WRITTEN: u8 = 0xdd;
const DATA: u64 = BUFFERS + 0x8000;
const FEATURES: u64 = VERSION_1;

fn device(features: u64) -> Driver {
    let mut driver = Driver::new(Box::new(Entropy::default()));
    driver.start(features, QUEUE_SIZE);
    driver.put(&[NOT_WRITTEN; 0x2000], DATA);
    driver
}

/// Offers a chain from descriptor 0 on of these buffers: address, length and flags.
fn offer(driver: &mut Driver, table: u64, buffers: &[(u64, u32, u16)]) {
    for (index, &(address, length, flags)) in (0..).zip(buffers) {
        let last = usize::from(index) + 1 == buffers.len();
        let flags = if last { flags } else { flags | NEXT };
        driver.describe(table, index, (address, length, flags, index + 1));
    }
    if table != DESCRIPTORS {
        driver.describe(DESCRIPTORS, 0, (table, 16 * buffers.len() as u32, INDIRECT, 0));
    }
    driver.offer(0);
}

/// Notifies the device, waits for the interrupt, and returns the used length.
fn finish(driver: &mut Driver) -> u32 {
    driver.notify();
    assert_eq!(driver.wait(), VIRTIO_MMIO_INT_VRING);
    let (head, length) = driver.take_used().expect("nothing was used");
    assert_eq!(head, 0);
    length
}

fn request(driver: &mut Driver, buffers: &[(u64, u32, u16)]) -> u32 {
    offer(driver, DESCRIPTORS, buffers);
    finish(driver)
}

fn is_untouched(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == NOT_WRITTEN)
}

/// Whether the device wrote these 32 bytes: random bytes are all equal with a probability of only 2^-248.
fn is_random(bytes: &[u8]) -> bool {
    assert!(bytes.len() >= 32);
    bytes
        .chunks_exact(32)
        .all(|chunk| chunk.iter().any(|byte| *byte != chunk[0]))
}

#[test]
fn it_is_an_entropy_device_with_one_queue_and_no_features_of_its_own() {
    let driver = Driver::new(Box::new(Entropy::default()));
    assert_eq!(
        driver.read(virtio_bindings::virtio_mmio::VIRTIO_MMIO_DEVICE_ID),
        4
    );
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX), u32::from(QUEUE_SIZE));
    assert_eq!(driver.features() & 0xff_ffff, 0);
}

#[test]
fn a_request_fills_exactly_its_writable_bytes() {
    for table in [DESCRIPTORS, BUFFERS] {
        let mut driver = device(FEATURES);
        let buffers = [
            (DATA, 32, WRITE),
            (DATA + 0x100, 0, WRITE),
            (DATA + 0x200, 64, WRITE),
        ];
        offer(&mut driver, table, &buffers);
        assert_eq!(finish(&mut driver), 96);
        assert!(is_random(&driver.bytes(DATA, 32)) && is_random(&driver.bytes(DATA + 0x200, 64)));
        assert!(is_untouched(&driver.bytes(DATA + 32, 0x200 - 32)));
        assert!(is_untouched(&driver.bytes(DATA + 0x240, 0x1000)));
    }
}

#[test]
fn readable_bytes_are_not_written() {
    let mut driver = device(FEATURES);
    assert_eq!(request(&mut driver, &[(DATA, 32, 0), (DATA + 32, 32, WRITE)]), 32);
    assert!(is_untouched(&driver.bytes(DATA, 32)));
    assert!(is_random(&driver.bytes(DATA + 32, 32)));
}

#[test]
fn no_two_requests_get_the_same() {
    let mut driver = device(FEATURES);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        assert_eq!(request(&mut driver, &[(DATA, 64, WRITE)]), 64);
        assert!(seen.insert(driver.bytes(DATA, 64)));
    }
}

#[test]
fn a_large_request_gets_a_short_answer() {
    let mut driver = device(FEATURES);
    for length in [257, 4096, u32::MAX] {
        driver.put(&[NOT_WRITTEN; 0x2000], DATA);
        assert_eq!(request(&mut driver, &[(DATA, length, WRITE)]), REQUEST_MAX as u32);
        assert!(is_random(&driver.bytes(DATA, REQUEST_MAX)));
        assert!(is_untouched(&driver.bytes(DATA + REQUEST_MAX as u64, 0x1000)));
    }
    let many = [
        (DATA, 128, WRITE),
        (DATA + 0x100, 127, WRITE),
        (DATA + 0x200, 32, WRITE),
        (DATA + 0x300, 32, WRITE),
    ];
    driver.put(&[NOT_WRITTEN; 0x2000], DATA);
    assert_eq!(request(&mut driver, &many), REQUEST_MAX as u32);
    assert!(is_untouched(&driver.bytes(DATA + 0x201, 0x200)));
}

#[test]
fn what_lies_behind_the_end_of_guest_memory_does_not_count() {
    let mut driver = device(FEATURES);
    assert_eq!(
        request(&mut driver, &[(HOLE - 32, 64, WRITE), (DATA, 32, WRITE)]),
        32
    );
    assert!(is_random(&driver.bytes(HOLE - 32, 32)));
    assert!(is_untouched(&driver.bytes(DATA, 32)));
}

#[test]
fn a_chain_that_cannot_be_answered_needs_a_reset_which_brings_the_device_back() {
    let mut driver = device(FEATURES);
    let unanswerable: [&[(u64, u32, u16)]; 5] = [
        &[(DATA, 64, 0)],
        &[(DATA, 0, WRITE)],
        &[(HOLE, 64, WRITE)],
        &[(u64::MAX - 16, 64, WRITE)],
        // Descriptor 0 is followed by itself.
        &[(DATA, 64, WRITE | NEXT)],
    ];
    for buffers in unanswerable {
        driver.describe(DESCRIPTORS, 0, (0, 0, 0, 0));
        offer(&mut driver, DESCRIPTORS, buffers);
        if buffers[0].2 & NEXT != 0 {
            driver.describe(DESCRIPTORS, 0, (DATA, 64, WRITE | NEXT, 0));
        }
        driver.notify();
        assert!(driver.needs_reset(), "{buffers:x?}");
        assert_eq!(driver.take_used(), None);
        driver.reset();
        driver.start(FEATURES, QUEUE_SIZE);
        assert_eq!(request(&mut driver, &[(DATA, 64, WRITE)]), 64);
    }
}

#[test]
fn completions_before_a_broken_chain_count() {
    let mut driver = device(FEATURES);
    driver.describe(DESCRIPTORS, 0, (DATA, 32, WRITE, 0));
    driver.describe(DESCRIPTORS, 1, (DATA, 32, 0, 0));
    driver.offer(0);
    driver.offer(1);
    driver.notify();
    assert!(driver.wait() & VIRTIO_MMIO_INT_VRING != 0);
    assert!(driver.needs_reset());
    assert_eq!(driver.take_used(), Some((0, 32)));
    assert_eq!(driver.take_used(), None);
}

#[test]
fn more_chains_than_the_queue_has_room_for_need_a_reset() {
    let mut driver = device(FEATURES);
    driver.describe(DESCRIPTORS, 0, (DATA, 32, WRITE, 0));
    (0..=QUEUE_SIZE).for_each(|_| driver.offer(0));
    driver.notify();
    assert!(driver.needs_reset());
}

#[test]
fn a_full_queue_is_served_with_one_interrupt_before_the_notification_returns() {
    for features in [FEATURES, FEATURES | EVENT_IDX] {
        let mut driver = device(features);
        for slot in 0..QUEUE_SIZE {
            driver.describe(DESCRIPTORS, slot, (DATA + 64 * u64::from(slot), 64, WRITE, 0));
            driver.offer(slot);
        }
        driver.notify();
        assert_eq!(
            std::iter::from_fn(|| driver.take_used()).count(),
            usize::from(QUEUE_SIZE)
        );
        assert_eq!(driver.wait(), VIRTIO_MMIO_INT_VRING);
        assert!(!driver.interrupted());
        assert!(is_random(&driver.bytes(DATA, 64 * usize::from(QUEUE_SIZE))));
    }
}

#[test]
fn a_driver_that_notifies_only_when_asked_to_is_always_served() {
    // With event indices, more requests than the 16-bit indices of the rings can count: the comparison must survive the wrap.
    for (features, requests) in [(FEATURES, 1_000), (FEATURES | EVENT_IDX, 70_000)] {
        let mut driver = device(features);
        for _ in 0..requests {
            let before = driver.next_available();
            offer(&mut driver, DESCRIPTORS, &[(DATA, 1, WRITE)]);
            assert!(driver.notify_if_wanted(before));
            assert_eq!(driver.take_used(), Some((0, 1)));
        }
    }
}

#[test]
fn what_is_available_before_driver_ok_is_served_at_it() {
    let mut driver = Driver::new(Box::new(Entropy::default()));
    assert!(driver.negotiate(FEATURES));
    driver.set_up_queue(QUEUE_SIZE);
    offer(&mut driver, DESCRIPTORS, &[(DATA, 32, WRITE)]);
    driver.notify();
    assert_eq!(driver.take_used(), None);
    driver.driver_ok();
    assert_eq!(driver.take_used(), Some((0, 32)));
}

#[test]
fn after_a_reset_the_device_touches_nothing() {
    let mut driver = device(FEATURES);
    assert_eq!(request(&mut driver, &[(DATA, 32, WRITE)]), 32);
    driver.reset();
    driver.offer(0);
    let before = driver.bytes(0, MEMORY_SIZE as usize);
    driver.notify();
    assert!(before == driver.bytes(0, MEMORY_SIZE as usize));
    driver.start(FEATURES, QUEUE_SIZE);
    driver.transport.stop();
    offer(&mut driver, DESCRIPTORS, &[(DATA, 32, WRITE)]);
    let before = driver.bytes(0, MEMORY_SIZE as usize);
    driver.notify();
    assert!(before == driver.bytes(0, MEMORY_SIZE as usize));
}

#[test]
fn a_device_made_anew_serves_what_the_one_before_had_not_and_nothing_twice() {
    let mut driver = device(FEATURES);
    for number in 0..20 {
        let at = DATA + 64 * number;
        offer(&mut driver, DESCRIPTORS, &[(at, 64, WRITE)]);
        // The driver was stopped before it could notify the device.
        driver.transport.pause();
        driver.resume_anew(|| Box::new(Entropy::default()));
        assert_eq!(driver.wait(), VIRTIO_MMIO_INT_VRING);
        assert_eq!(driver.take_used(), Some((0, 64)));
        assert!(is_random(&driver.bytes(at, 64)));
        driver.notify();
        assert_eq!(driver.take_used(), None);
    }
}
