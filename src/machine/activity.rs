//! What a guest has made its machine do so far.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::open_files::OpenFiles;
use crate::kvm::{Statistics, Vcpu};
use crate::virtio::{block, vsock};

/// Counts since the machine's start.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Exits of all vCPUs by KVM's name for their kind; `exits` are all of them. Empty where KVM does not count them.
    pub exits: BTreeMap<String, u64>,
    /// Bytes that the guest has read from its disks.
    pub disks_read: u64,
    /// Bytes that it has written to them.
    pub disks_written: u64,
    /// Bytes that it has received through its socket device.
    pub sockets_received: u64,
    /// Bytes that it has sent through it.
    pub sockets_sent: u64,
}

/// Where the counts are.
#[derive(Default)]
pub struct Counters {
    /// KVM's, of each vCPU. Empty unless somebody may ask.
    vcpus: Vec<Statistics>,
    disks: Vec<Arc<block::Backend>>,
    vsock: Option<Arc<vsock::Backend>>,
}

impl Counters {
    pub fn of(opened: &OpenFiles) -> Self {
        Self {
            vcpus: Vec::new(),
            disks: opened.disks.clone(),
            vsock: opened.vsock.clone(),
        }
    }

    /// To be called before the vCPUs run.
    pub fn open(&mut self, vcpus: &[Vcpu]) {
        let opened = vcpus.iter().map(Vcpu::statistics).collect();
        match opened {
            Ok(opened) => self.vcpus = opened,
            Err(error) => log::debug!("KVM does not count exits: {error}"),
        }
    }

    pub fn read(&self) -> Activity {
        let mut activity = Activity::default();
        let counters = self.vcpus.iter().flat_map(Statistics::all);
        for (name, count) in counters.filter(|(name, _)| name.ends_with("exits")) {
            *activity.exits.entry(name.to_owned()).or_default() += count;
        }
        for traffic in self.disks.iter().map(|disk| disk.traffic()) {
            activity.disks_read += traffic.read();
            activity.disks_written += traffic.written();
        }
        if let Some(traffic) = self.vsock.as_ref().map(|vsock| vsock.traffic()) {
            activity.sockets_received = traffic.read();
            activity.sockets_sent = traffic.written();
        }
        activity
    }
}
