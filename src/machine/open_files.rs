//! The files of a machine, opened once and kept until the end of the process.
//!
//! A guest that reboots boots again from these: the contents of its ephemeral disks stay, no lock is let go, and a file
//! that somebody put in the place of another one is not taken.

use std::fs::File;
use std::sync::Arc;

use super::footprint::Mappings;
use super::{Error, limits};
use crate::boot::Image;
use crate::built_in;
use crate::config::{Config, Disk};
use crate::kvm::Kvm;
use crate::virtio::block::{Backend, ImageError, check_each_once};
use crate::virtio::log_limit::LogLimit;
use crate::virtio::vsock;

/// What a guest boots from.
pub struct BootFiles {
    pub kernel: Image,
    pub initrd: Option<Image>,
}

/// Everything that a machine needs of the host, open.
pub struct OpenFiles {
    pub kvm: Kvm,
    pub boot: BootFiles,
    /// In the order in which the guest sees them.
    pub disks: Vec<Arc<Backend>>,
    /// The socket device's part on the host.
    pub vsock: Option<Arc<vsock::Backend>>,
    /// The log lines of the entropy device, counted over all boots. A disk counts its own.
    pub entropy_log: Arc<LogLimit>,
    /// For [`super::Running::meter`]: none unless somebody may ask.
    pub mappings: Option<Mappings>,
}

impl BootFiles {
    pub fn open(config: &Config) -> Result<Self, Error> {
        let kernel = match &config.kernel {
            Some(path) => Image::open(path)?,
            None => built_in::kernel().ok_or(Error::NoBuiltInGuest)?,
        };
        let initrd = match (&config.initrd, &config.kernel) {
            (Some(path), _) => Some(Image::open(path)?),
            (None, Some(_)) => None,
            (None, None) => built_in::initrd(),
        };
        Ok(Self { kernel, initrd })
    }
}

impl OpenFiles {
    /// Opens the files of `config`, locks its disks, and opens /dev/kvm.
    pub fn open(config: &Config) -> Result<Self, Error> {
        Self::open_with(config, Vec::new())
    }

    /// The same. `handed_over` has the open files of each disk of `config` that is handed over, in the order of these disks.
    pub fn open_with(config: &Config, handed_over: Vec<Vec<File>>) -> Result<Self, Error> {
        limits::raise();
        let boot = BootFiles::open(config)?;
        check_each_once(&config.disks).map_err(ImageError::from)?;
        let mut handed_over = handed_over.into_iter();
        let mut open_disk = |disk: &Disk| match disk.handed_over {
            true => Backend::handed_over(disk, handed_over.next().unwrap_or_default(), config.cpus),
            false => Backend::open(disk, config.cpus),
        };
        let disks = config.disks.iter();
        let disks = disks
            .map(|disk| open_disk(disk).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let vsock = config.vsock.as_ref();
        let vsock = vsock
            .map(|vsock| vsock::Backend::open(vsock, config.host_user, config.confine))
            .transpose()?;
        Ok(Self {
            // After the files, since one that is missing is sooner mended than a host without KVM.
            kvm: Kvm::open()?,
            boot,
            disks,
            vsock: vsock.map(Arc::new),
            entropy_log: Arc::default(),
            mappings: None,
        })
    }

    /// Has [`super::Running::meter`] give one. To be called before the process is confined.
    pub fn count_memory(&mut self) {
        match Mappings::open() {
            Ok(mappings) => self.mappings = Some(mappings),
            Err(error) => log::debug!("the memory of this process is not counted: {error}"),
        }
    }
}

#[cfg(test)]
#[path = "open_files_test.rs"]
mod tests;
