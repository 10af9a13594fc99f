//! Why vCPUs left the guest: reason, port or address, and what that cost.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kvm::Exit;
use crate::x86::layout;

/// Why a vCPU left the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    PortRead(u16),
    PortWrite(u16),
    MmioRead(u64),
    MmioWrite(u64),
    /// A signal reached the vCPU's thread.
    Interrupted,
    /// An exit that ends the run: a triple fault or an error of KVM.
    Fatal,
    /// All reasons beyond those that are counted separately.
    Others,
}

impl Reason {
    pub fn of(exit: &Exit) -> Self {
        match exit {
            Exit::PortRead { port, .. } => Self::PortRead(*port),
            Exit::PortWrite { port, .. } => Self::PortWrite(*port),
            Exit::MmioRead { address, .. } => Self::MmioRead(*address),
            Exit::MmioWrite { address, .. } => Self::MmioWrite(*address),
            Exit::Interrupted => Self::Interrupted,
            Exit::Shutdown | Exit::InternalError { .. } | Exit::FailEntry { .. } | Exit::Other { .. } => {
                Self::Fatal
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::PortRead(_) => "port read",
            Self::PortWrite(_) => "port write",
            Self::MmioRead(_) => "MMIO read",
            Self::MmioWrite(_) => "MMIO write",
            Self::Interrupted => "interrupted",
            Self::Fatal => "fatal",
            Self::Others => "others",
        }
    }

    pub fn address(self) -> Option<u64> {
        match self {
            Self::PortRead(port) | Self::PortWrite(port) => Some(port.into()),
            Self::MmioRead(address) | Self::MmioWrite(address) => Some(address),
            Self::Interrupted | Self::Fatal | Self::Others => None,
        }
    }

    /// The name of the device that has this port or address.
    pub fn device(self) -> Option<String> {
        const BOOT_CLOCK: u16 = layout::BOOT_CLOCK_PORT;
        const VIRTIO_END: u64 =
            layout::VIRTIO_MMIO + layout::VIRTIO_DEVICE_MAX as u64 * layout::VIRTIO_MMIO_SIZE;
        let port = |port: u16| match port {
            _ if is_console(port) => "serial port",
            BOOT_CLOCK => "boot clock",
            layout::SLEEP_CONTROL_PORT | layout::SLEEP_STATUS_PORT => "sleep registers",
            _ if in_ports(port, layout::KEYBOARD_PORT, layout::KEYBOARD_PORT_COUNT) => "keyboard controller",
            _ => "no device",
        };
        match self {
            Self::PortRead(number) | Self::PortWrite(number) => Some(port(number).into()),
            Self::MmioRead(address) | Self::MmioWrite(address) => Some(match address {
                layout::VIRTIO_MMIO..VIRTIO_END => {
                    let index = (address - layout::VIRTIO_MMIO) / layout::VIRTIO_MMIO_SIZE;
                    format!("virtio device {index}")
                }
                _ => "no device".into(),
            }),
            Self::Interrupted | Self::Fatal | Self::Others => None,
        }
    }

    /// Whether it is an access to the serial port.
    pub fn is_console(self) -> bool {
        matches!(self, Self::PortRead(port) | Self::PortWrite(port) if is_console(port))
    }
}

fn is_console(port: u16) -> bool {
    in_ports(port, layout::SERIAL_PORT, layout::SERIAL_PORT_COUNT)
}

fn in_ports(port: u16, first: u16, count: u16) -> bool {
    (first..first + count).contains(&port)
}

/// How many exits had one reason, and how long Coracle worked on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    pub exits: u64,
    /// Time from the return of `KVM_RUN` until Coracle has handled the exit, summed over these exits.
    pub time: Duration,
}

impl Cost {
    pub fn add(&mut self, other: Self) {
        self.exits += other.exits;
        self.time += other.time;
    }
}

/// The costs of all vCPUs.
pub type Costs = BTreeMap<Reason, Cost>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_and_address_has_its_device() {
        let device = |reason: Reason| reason.device().unwrap();
        assert_eq!(device(Reason::PortRead(0x3fd)), "serial port");
        assert_eq!(device(Reason::PortRead(0x400)), "no device");
        assert_eq!(device(Reason::PortWrite(0x5f0)), "boot clock");
        assert_eq!(device(Reason::PortWrite(0x64)), "keyboard controller");
        assert_eq!(device(Reason::MmioRead(0xd000_1070)), "virtio device 1");
        assert_eq!(device(Reason::MmioRead(0xd001_3000)), "no device");
        assert_eq!(Reason::Interrupted.device(), None);
    }
}
