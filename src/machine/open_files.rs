//! The files of a machine, opened once and kept until the end of the process.
//!
//! A guest that reboots boots again from these: the contents of its ephemeral disks stay, no lock is let go, and a file
//! that somebody put in the place of another one is not taken.

use std::sync::Arc;

use super::footprint::Mappings;
use super::{Error, limits};
use crate::boot::Image;
use crate::built_in;
use crate::config::Config;
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
        limits::raise();
        let boot = BootFiles::open(config)?;
        check_each_once(&config.disks).map_err(ImageError::from)?;
        let disks = config
            .disks
            .iter()
            .map(|disk| Backend::open(disk, config.cpus).map(Arc::new))
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
