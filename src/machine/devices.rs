//! The virtio devices of a machine, each in a place of its own: a window of registers and an interrupt line. This is the only
//! list of them, and their order is that in which the guest finds them.

use crate::config::Config;
use crate::x86::acpi::VirtioMmioWindow;
use crate::x86::layout;

/// A device in its place.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    pub device: Device,
    pub window: VirtioMmioWindow,
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The disk with this number, from 0, in the configuration.
    Disk(usize),
    Vsock,
    Entropy,
}

/// There are more devices than places.
#[derive(Debug, thiserror::Error)]
#[error(
    "{wanted} virtio devices are too many: a machine has places for {}, one of which its entropy device takes (leave out disks)",
    layout::VIRTIO_DEVICE_MAX
)]
pub struct TooMany {
    wanted: usize,
}

/// Gives each device of `config` its place. The entropy device, if there is to be one, comes last, so that it does not change the
/// names that a guest gives to disks.
pub fn place(config: &Config, entropy: bool) -> Result<Vec<Placed>, TooMany> {
    let disks = (0..config.disks.len()).map(Device::Disk);
    let vsock = config.vsock.iter().map(|_| Device::Vsock);
    let entropy = entropy.then_some(Device::Entropy);
    let devices: Vec<_> = disks.chain(vsock).chain(entropy).collect();
    if devices.len() > layout::VIRTIO_DEVICE_MAX {
        let wanted = devices.len();
        return Err(TooMany { wanted });
    }
    let placed = |(index, device)| Placed {
        device,
        window: window(index),
    };
    Ok(devices.into_iter().enumerate().map(placed).collect())
}

/// The place with this number.
fn window(index: usize) -> VirtioMmioWindow {
    VirtioMmioWindow {
        address: layout::VIRTIO_MMIO + index as u64 * layout::VIRTIO_MMIO_SIZE,
        size: layout::VIRTIO_MMIO_SIZE,
        irq: layout::VIRTIO_IRQ_FIRST + index as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DISKS_MAX;

    fn with_disks(count: usize) -> Config {
        Config {
            disks: vec!["a".parse().unwrap(); count],
            ..Config::default()
        }
    }

    #[test]
    fn a_host_without_random_numbers_leaves_out_the_entropy_device() {
        let placed = place(&with_disks(1), false).unwrap();
        let devices: Vec<_> = placed.iter().map(|placed| placed.device).collect();
        assert_eq!(devices, [Device::Disk(0)]);
    }

    #[test]
    fn each_device_has_a_window_and_a_line_of_its_own() {
        // As many as there are places.
        let placed = place(&with_disks(layout::VIRTIO_DEVICE_MAX - 1), true).unwrap();
        for pair in placed.windows(2) {
            let [one, next] = [pair[0].window, pair[1].window];
            assert_eq!(one.address + one.size, next.address);
            assert_eq!(one.irq + 1, next.irq);
        }
        let [first, last] = [placed[0], placed[placed.len() - 1]];
        assert_eq!(
            (first.window.address, first.window.irq),
            (layout::VIRTIO_MMIO, layout::VIRTIO_IRQ_FIRST)
        );
        assert_eq!(last.window.irq, layout::VIRTIO_IRQ_LAST);
        assert_eq!((first.device, last.device), (Device::Disk(0), Device::Entropy));
    }

    #[test]
    fn one_too_many_is_an_error_that_says_how_many_fit() {
        let error = place(&with_disks(layout::VIRTIO_DEVICE_MAX), true)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("20 virtio devices") && error.contains("places for 19"),
            "{error}"
        );
        // A configuration is refused before that.
        place(&with_disks(DISKS_MAX), true).unwrap();
    }
}
