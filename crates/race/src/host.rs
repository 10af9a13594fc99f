//! The host of a race, in so far as it matters for what the figures mean.

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    pub processor: String,
    pub cpus: usize,
    /// A hypervisor runs below this host's kernel.
    pub is_virtual: bool,
    /// Its KVM interprets guest kernels.
    pub interprets_guests: bool,
}

impl Host {
    /// What anybody who reads the figures must know; none on a machine of its own.
    pub fn caution(&self) -> Option<&'static str> {
        match (self.interprets_guests, self.is_virtual) {
            (true, _) => Some(
                "this host's KVM interprets guest kernels: figures of VMMs here do not stand for hardware",
            ),
            (_, true) => Some(
                "this host is itself a virtual machine: leaving a guest takes longer than on hardware, and these \
                 figures do not stand for it",
            ),
            _ => None,
        }
    }
}
