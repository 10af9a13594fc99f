//! Notifications that come without end while the driver resets the device and starts it anew, as from another processor of
//! the guest, and while the machine is paused: nothing hangs, and after the last reset the device works.
#![no_main]

mod hostile_driver;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use coracle::bus::BusDevice;
use coracle::config::{Disk, Engine};
use coracle::virtio::VirtioDevice;
use coracle::virtio::block::Block;
use coracle::virtio::entropy::Entropy;
use coracle_fuzz::MemoryFile;
use hostile_driver::{DISK_SECTORS, Driver, Step};
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

fn device(input: &Input) -> Box<dyn VirtioDevice> {
    let engine = match input.device {
        Device::Sync => Engine::Sync,
        Device::Uring => Engine::Uring,
        Device::Entropy => return Box::new(Entropy::default()),
    };
    FILE.replace(&[0x55; DISK_SECTORS as usize * 512]);
    let options = Disk {
        engine,
        queues: Some(u16::from(input.queues % 4) + 1),
        ..Disk::new(FILE.path())
    };
    Box::new(Block::open(&options, 1).expect("the image is whole"))
}

fuzz_target!(|input: Input| {
    let driver = Driver::new(device(&input)).without_waiting();
    driver.start_in_order(input.features);
    let (transport, done) = (driver.transport(), AtomicBool::new(false));
    thread::scope(|scope| {
        let notifying = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Both ways in which a notification comes: by the register, and by KVM's ioeventfd.
                for (queue, notifier) in (0u32..).zip(transport.queue_notifiers()) {
                    transport.write(VIRTIO_MMIO_QUEUE_NOTIFY.into(), &queue.to_le_bytes());
                    let _ = notifier.write(1);
                }
            }
        });
        for step in input.steps.iter().flatten() {
            driver.take(step);
            // As when somebody pauses the machine while a request is under way.
            transport.pause();
            transport.resume();
            driver.take(&Step::Reset);
            driver.start_in_order(input.features);
        }
        done.store(true, Ordering::Relaxed);
        // A scope waits for what its threads do and not for their ends, and what a thread has until then looks like a leak.
        notifying.join().expect("the device can be notified");
    });
    driver.read_after_a_reset(512);
    driver.stop();
});
