//! Notifications that come without end while the driver resets the device and starts it anew, as from another processor of
//! the guest, and while the machine is paused and the device made anew from its state: nothing hangs, and after the last reset
//! the device works.
#![no_main]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::thread;

use coracle::bus::BusDevice;
use coracle::config::{Disk, Engine};
use coracle::virtio::VirtioDevice;
use coracle::virtio::block::{Backend, Block};
use coracle::virtio::entropy::Entropy;
use coracle_fuzz::MemoryFile;
use coracle_fuzz::hostile_driver::{DISK_SECTORS, Driver, Step};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);

#[derive(Arbitrary, Debug)]
struct Input {
    device: Device,
    queues: u8,
    /// Feature bits, of which only those count that the device offers.
    features: u64,
    /// A few, because each restarts the device's threads.
    steps: [Option<Step>; 12],
}

#[derive(Arbitrary, Debug)]
enum Device {
    Sync,
    Uring,
    Entropy,
}

/// The open disk, if the device is one.
fn backend(input: &Input) -> Option<Arc<Backend>> {
    let engine = match input.device {
        Device::Sync => Engine::Sync,
        Device::Uring => Engine::Uring,
        Device::Entropy => return None,
    };
    FILE.replace(&[0x55; DISK_SECTORS as usize * 512]);
    let options = Disk {
        engine,
        queues: Some(u16::from(input.queues % 4) + 1),
        ..Disk::new(FILE.path())
    };
    Some(Arc::new(Backend::open(&options, 1).expect("the image is whole")))
}

fn device(backend: &Option<Arc<Backend>>) -> Box<dyn VirtioDevice> {
    match backend {
        Some(backend) => Box::new(Block::new(backend.clone())),
        None => Box::new(Entropy::default()),
    }
}

fuzz_target!(|input: Input| {
    let backend = backend(&input);
    let driver = Driver::new(device(&backend)).without_waiting();
    driver.start_in_order(input.features);
    // What a driver does, on any vCPU, it does with the lock for readers: no vCPU runs while a device is made anew.
    let (driver, done) = (RwLock::new(driver), AtomicBool::new(false));
    let read = || driver.read().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        let notifying = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let driver = read();
                let transport = driver.transport();
                // Both ways in which a notification comes: by the register, and by KVM's ioeventfd.
                for (queue, notifier) in (0u32..).zip(transport.queue_notifiers()) {
                    transport.write(VIRTIO_MMIO_QUEUE_NOTIFY.into(), &queue.to_le_bytes());
                    let _ = notifier.write(1);
                }
            }
        });
        for step in input.steps.iter().flatten() {
            read().take(step);
            // As when somebody pauses the machine while a request is under way.
            read().transport().pause();
            read().transport().resume();
            read().transport().pause();
            driver
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .resume_anew(device(&backend));
            read().take(&Step::Reset);
            read().start_in_order(input.features);
        }
        done.store(true, Ordering::Relaxed);
        // A scope waits for what its threads do and not for their ends, and what a thread has until then looks like a leak.
        notifying.join().expect("the device can be notified");
    });
    let driver = read();
    driver.read_after_a_reset(512);
    driver.stop();
});
