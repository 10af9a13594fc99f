//! The entropy device, through a driver that knows nothing of Coracle.

use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::mmio::MmioTransport;

use crate::machine::OneToOne;
use crate::plan::ENTROPY;
use crate::say;

/// Asks for as much as the plan says. What comes must fill a buffer of zeros from its start, and nothing behind it.
pub fn exercise(transport: MmioTransport<'static>) {
    let mut device = VirtIORng::<OneToOne, _>::new(transport).expect("the entropy device is one");
    let mut before = [0; 16];
    for wanted in ENTROPY {
        let mut bytes = [0; 4096];
        let count = device.request_entropy(&mut bytes[..wanted]).expect("bytes come");
        let behind = bytes[count..].iter().filter(|byte| **byte != 0).count();
        // One of 256 bytes is 0: so many in a row are none that the device gave.
        let gap = bytes[..count].windows(16).any(|window| *window == [0; 16]);
        let again = bytes[..16] == before;
        say!("entropy: {count} of {wanted}, {behind} behind them, gap {gap}, again {again}");
        before.copy_from_slice(&bytes[..16]);
    }
}
