//! The I/O thread: when it lives, and that no wake-up gets lost between it and the driver.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING;
use virtio_queue::QueueState;

use super::*;
use crate::config::Engine;
use crate::interrupt::Interrupt;
use crate::virtio::block::chain::Chain;
use crate::virtio::block::test_disk::*;
use crate::virtio::block::{Backend, Block};
use crate::virtio::test_driver::*;

/// Whether `count` threads of this process have this name. One that was joined leaves the list a moment later.
fn becomes(name: &str, count: usize) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        if names.filter(|comm| comm.trim_end() == name).count() == count {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

with_each_engine!(
    chains_offered_before_driver_ok_are_served_with_one_interrupt,
    a_disk_thread_lives_as_long_as_its_backend,
    after_a_reset_in_the_middle_of_requests_the_device_touches_nothing,
    a_reset_among_flushes_ends,
    no_wake_up_is_lost_with_an_event_index,
    no_wake_up_is_lost_without_an_event_index,
);

fn chains_offered_before_driver_ok_are_served_with_one_interrupt(engine: Engine) {
    let file = image();
    let mut driver = Driver::new(Box::new(open(file.path(), engine)));
    assert!(driver.negotiate(FEATURES));
    driver.set_up_queue(QUEUE);
    for _ in 0..10 {
        offer(&mut driver, &header(VIRTIO_BLK_T_IN, 0), 513, &plain(512));
    }
    driver.driver_ok();
    assert_eq!(driver.wait(), VIRTIO_MMIO_INT_VRING);
    assert_eq!(std::iter::from_fn(|| driver.take_used()).count(), 10);
    driver.reset();
    assert!(!driver.interrupted());
}

fn a_disk_thread_lives_as_long_as_its_backend(engine: Engine) {
    let file = image();
    // A thread's name has 15 bytes.
    let id = format!("of-{engine:?}");
    let name = format!("disk-{id}");
    let options = crate::config::Disk {
        id: Some(id),
        ..options(file.path(), engine)
    };
    let backend = Arc::new(Backend::open(&options, 1).unwrap());
    let numbers = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let is_its = |path: &std::path::Path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let paths = tasks.map(|task| task.unwrap().path());
        paths.filter(|path| is_its(path)).collect::<Vec<_>>()
    };
    let mut first = None;
    // As for each boot of a guest that reboots.
    for _ in 0..3 {
        let mut driver = Driver::new(Box::new(Block::new(backend.clone())));
        driver.transport.prepare().unwrap();
        assert!(becomes(&name, 1));
        assert_eq!(*first.get_or_insert_with(numbers), numbers());
        for _ in 0..3 {
            driver.start(FEATURES, QUEUE);
            assert_eq!(read(&mut driver, 0, 512).status, OK);
            driver.reset();
        }
        driver.start(FEATURES, QUEUE);
        driver.transport.stop();
    }
    drop(backend);
    assert!(becomes(&name, 0));
}

/// The one that the driver set up.
fn queue() -> virtio_queue::Queue {
    let state = QueueState {
        max_size: QUEUE,
        size: QUEUE,
        ready: true,
        desc_table: DESCRIPTORS,
        avail_ring: AVAILABLE,
        used_ring: USED,
        ..Default::default()
    };
    state.try_into().unwrap()
}

#[test]
fn a_thread_told_to_stop_begins_no_further_request() {
    let (file, other) = (image(), image());
    let mut driver = Driver::new(Box::new(open(file.path(), Engine::Sync)));
    driver.set_up_queue(QUEUE);
    offer(&mut driver, &header(VIRTIO_BLK_T_IN, 0), 513, &plain(512));
    let (block, stop) = (open(other.path(), Engine::Sync), Stop::default());
    stop.request(Begun::Complete);
    let memory = driver.memory.clone();
    let interrupt = VirtioInterrupt::new(Interrupt::new(|| Ok(())));
    let mut served = DiskQueue::new(block.disk(), &queue(), &memory, &interrupt, FEATURES, &stop).unwrap();
    let mut chain = Chain::default();
    sync::serve_batch(&mut served, &mut chain).unwrap();
    assert_eq!(driver.take_used(), None);
    let stop = Stop::default();
    let mut served = DiskQueue::new(block.disk(), &queue(), &memory, &interrupt, FEATURES, &stop).unwrap();
    sync::serve_batch(&mut served, &mut chain).unwrap();
    assert_eq!(driver.take_used(), Some((0, 513)));
}

/// The driver works in the interrupt, so that there is always a read that the page cache has.
#[test]
fn a_flush_ends_although_reads_never_cease() {
    const READS: u64 = 1_000_000;
    const FLUSH: u16 = 16;
    let (file, other) = (image(), image());
    let mut driver = Driver::new(Box::new(open(file.path(), Engine::Sync)));
    driver.set_up_queue(QUEUE);
    driver.put(&header(VIRTIO_BLK_T_FLUSH, 0), DATA);
    driver.put(&header(VIRTIO_BLK_T_IN, 0), DATA + 16);
    driver.describe(DESCRIPTORS, FLUSH, (DATA, 16, NEXT, FLUSH + 1));
    driver.describe(DESCRIPTORS, FLUSH + 1, (DATA + 32, 1, WRITE, 0));
    driver.offer(FLUSH);
    for head in (0..FLUSH).step_by(2) {
        let buffer = DATA + 0x1000 + 1024 * u64::from(head);
        driver.describe(DESCRIPTORS, head, (DATA + 16, 16, NEXT, head + 1));
        driver.describe(DESCRIPTORS, head + 1, (buffer, 513, WRITE, 0));
        driver.offer(head);
    }
    let (block, memory) = (open(other.path(), Engine::Uring), driver.memory.clone());
    let stop = Arc::new(Stop::default());
    let has_flushed = Arc::new(AtomicBool::new(false));
    let handler = {
        let (stop, has_flushed) = (stop.clone(), has_flushed.clone());
        let state = Mutex::new((driver, 0));
        move || {
            let (driver, reads) = &mut *state.lock().unwrap();
            while let Some((head, _)) = driver.take_used() {
                if head == u32::from(FLUSH) {
                    // Not only because the device is stopped.
                    has_flushed.store(*reads < READS, Ordering::SeqCst);
                } else {
                    *reads += 1;
                    driver.offer(head as u16);
                }
            }
            if *reads >= READS || has_flushed.load(Ordering::SeqCst) {
                stop.request(Begun::Abandon);
            }
            Ok(())
        }
    };
    let interrupt = VirtioInterrupt::new(Interrupt::new(handler));
    let served = DiskQueue::new(block.disk(), &queue(), &memory, &interrupt, FEATURES, &stop).unwrap();
    let notifier = EventFd::new(0).unwrap();
    let files = block.disk().files_for_uring().unwrap();
    match Ring::new(files, &notifier, QUEUE) {
        Ok(mut ring) => uring::run(&mut ring, served).unwrap(),
        Err(error) => panic!("this test needs io_uring: {error}"),
    };
    assert!(has_flushed.load(Ordering::SeqCst));
}

/// What the kernel still works on would otherwise be written to memory that is freed.
#[test]
fn a_panic_waits_for_what_the_ring_has_begun() {
    const DISCARDS: u16 = 60;
    const PIECE: usize = 64 << 10;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0x5a; usize::from(DISCARDS) * PIECE]).unwrap();
    let other = image();
    let mut driver = Driver::new(Box::new(open(other.path(), Engine::Sync)));
    driver.set_up_queue(QUEUE);
    // The kernel carries discards out on threads of its own, and answers the read at once. The interrupt then panics, without
    // the message, which takes longer than the discards.
    for index in 0..=DISCARDS {
        let sector = u64::from(index) * PIECE as u64 / 512;
        let segment = [
            &sector.to_le_bytes()[..],
            &(PIECE as u32 / 512).to_le_bytes(),
            &[0; 4],
        ];
        let (readable, writable) = match index {
            DISCARDS => (header(VIRTIO_BLK_T_IN, 0), 513),
            _ => ([header(VIRTIO_BLK_T_DISCARD, 0), segment.concat()].concat(), 1),
        };
        let (head, address) = (2 * index, DATA + 1024 * u64::from(index));
        driver.put(&readable, address);
        driver.describe(
            DESCRIPTORS,
            head,
            (address, readable.len() as u32, NEXT, head + 1),
        );
        driver.describe(DESCRIPTORS, head + 1, (address + 64, writable, WRITE, 0));
        driver.offer(head);
    }
    let (block, memory) = (open(file.path(), Engine::Uring), driver.memory.clone());
    let interrupt = VirtioInterrupt::new(Interrupt::new(|| std::panic::resume_unwind(Box::new(()))));
    let stop = Stop::default();
    let served = DiskQueue::new(block.disk(), &queue(), &memory, &interrupt, FEATURES, &stop).unwrap();
    let notifier = EventFd::new(0).unwrap();
    let files = block.disk().files_for_uring().unwrap();
    let mut ring = match Ring::new(files, &notifier, QUEUE) {
        Ok(ring) => ring,
        Err(error) => panic!("this test needs io_uring: {error}"),
    };
    let run = std::panic::AssertUnwindSafe(|| uring::run(&mut ring, served));
    assert!(std::panic::catch_unwind(run).is_err());
    let left = contents(&file).iter().filter(|&&byte| byte != 0).count();
    assert_eq!(left, 0, "bytes that are not discarded yet");
}

fn after_a_reset_in_the_middle_of_requests_the_device_touches_nothing(engine: Engine) {
    let (mut driver, _file) = disk(engine);
    for _ in 0..300 {
        for _ in 0..8 {
            offer(
                &mut driver,
                &header(VIRTIO_BLK_T_IN, 0),
                64 * 512 + 1,
                &plain(64 * 512),
            );
            driver.notify();
        }
        driver.reset();
        let before = driver.bytes(0, MEMORY_SIZE as usize);
        driver.notify();
        std::thread::yield_now();
        assert!(
            before == driver.bytes(0, MEMORY_SIZE as usize),
            "guest memory changed after the reset"
        );
        driver.start(FEATURES, QUEUE);
    }
}

/// The ring may be waiting for the very notification that says that it is the end.
fn a_reset_among_flushes_ends(engine: Engine) {
    let (mut driver, _file) = disk(engine);
    for round in 0..2_000 {
        offer(&mut driver, &header(VIRTIO_BLK_T_FLUSH, 0), 1, &plain(0));
        driver.notify();
        while driver.take_used().is_none() {}
        for _ in 0..round % 100 {
            std::hint::spin_loop();
        }
        driver.reset();
        driver.start(FEATURES, QUEUE);
    }
}

/// Keeps up to `depth` reads in flight, notifies only when the device asks, and waits for an interrupt only
/// when nothing is there: a wake-up lost on either side is a hang.
fn ping_pong(engine: Engine, features: u64, depth: u16) {
    const REQUESTS: u64 = 20_000;
    let file = image();
    let mut driver = driver(open(file.path(), engine), features);
    driver.put(&header(VIRTIO_BLK_T_IN, 0), DATA);
    for slot in 0..depth {
        let buffer = DATA + 0x1000 + 1024 * u64::from(slot);
        driver.describe(DESCRIPTORS, 2 * slot, (DATA, 16, NEXT, 2 * slot + 1));
        driver.describe(DESCRIPTORS, 2 * slot + 1, (buffer, 513, WRITE, 0));
    }
    let mut free: Vec<u16> = (0..depth).map(|slot| 2 * slot).collect();
    let (mut offered, mut completed, mut notifications, mut interrupts) = (0, 0, 0, 0);
    while completed < REQUESTS {
        let before = driver.next_available();
        while offered < REQUESTS
            && let Some(head) = free.pop()
        {
            driver.offer(head);
            offered += 1;
        }
        if driver.next_available() != before && driver.notify_if_wanted(before) {
            notifications += 1;
        }
        while let Some((head, length)) = driver.take_used() {
            assert_eq!(length, 513);
            free.push(head as u16);
            completed += 1;
        }
        if completed < REQUESTS && (free.is_empty() || offered == REQUESTS) && !driver.want_interrupt() {
            driver.wait();
            interrupts += 1;
        }
    }
    assert!(notifications > 0 && interrupts > 0);
    println!("{features:#x}, depth {depth}: {notifications} notifications, {interrupts} waits");
}

fn no_wake_up_is_lost_with_an_event_index(engine: Engine) {
    for depth in [1, 4, 64] {
        ping_pong(engine, FEATURES | EVENT_IDX, depth);
    }
}

fn no_wake_up_is_lost_without_an_event_index(engine: Engine) {
    for depth in [1, 64] {
        ping_pong(engine, FEATURES, depth);
    }
}
