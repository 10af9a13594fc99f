//! A disk whose writes vanish with it: a qcow2 image without a name, on a base that is only read.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder};

use super::backing::Chain;
use super::host_file::HostFile;
use super::{Error, Qcow2};
use crate::config::Format;

/// A first write copies what it does not cover of a cluster, so it is not large; a table of 2048 entries maps 32 MiB.
const CLUSTER_SIZE: usize = 16 << 10;

impl Qcow2 {
    /// Writes go to an unlinked temporary file and vanish with it; `base` is never written.
    pub fn overlay(base: File, path: &Path, format: Format) -> Result<Self, Error> {
        let mut chain = Chain::new(path, &base)?;
        let base = chain.open_layer(base, path, format)?;
        let size = base.size();
        if !size.is_multiple_of(512) {
            return Err(Error::PartialSector {
                path: path.into(),
                size,
            });
        }
        let directory = env::temp_dir();
        let temporary = temporary_file(&directory)
            .and_then(|file| HostFile::new(directory.join("overlay"), file))
            .and_then(|file| create(file, base, size));
        let image = temporary.map_err(|source| Error::Temporary {
            directory,
            path: path.into(),
            source,
        })?;
        Ok(Self::over_base(image, chain, CLUSTER_SIZE as u64))
    }
}

fn create(
    file: HostFile,
    base: FormatAccess<HostFile>,
    size: u64,
) -> io::Result<imago::qcow2::Qcow2<HostFile>> {
    imago::qcow2::Qcow2::create_builder(file)
        .size(size)
        .cluster_size(CLUSTER_SIZE)
        .create_open(DenyImplicitOpenGate::default(), |file| {
            Ok(imago::qcow2::Qcow2::builder(file).backing(Some(base)))
        })
}

/// Nobody else can open it, and it is gone when it is closed, however that comes about.
fn temporary_file(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let unnamed = options
        .clone()
        .custom_flags(libc::O_TMPFILE | libc::O_EXCL)
        .open(directory);
    match unnamed.as_ref().map_err(io::Error::raw_os_error) {
        // Some file systems have no files without names.
        Err(Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let path = directory.join(format!("coracle-overlay-{}", std::process::id()));
            let file = options.create_new(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        }
        _ => unnamed,
    }
}

#[cfg(test)]
#[path = "overlay_test.rs"]
mod tests;
