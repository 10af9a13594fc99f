//! The files under an image: opened for reading, each named by the one above it.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};

use super::Error;
use super::header::Header;
use super::host_file::HostFile;
use crate::config::Format;

/// Long before the stack ends; a person's chain has a handful.
const MAX_FILES: usize = 64;

/// The files of an image, the image itself first.
pub struct Chain {
    files: Vec<PathBuf>,
    /// Device and inode of each.
    identities: Vec<(u64, u64)>,
}

impl Chain {
    pub fn new(path: &Path, file: &File) -> Result<Self, Error> {
        let metadata = file.metadata().map_err(|source| Error::io(path, source))?;
        Ok(Self {
            files: vec![path.into()],
            identities: vec![identity(&metadata)],
        })
    }

    pub fn into_files(self) -> Vec<PathBuf> {
        self.files
    }

    /// What `header` of the chain's last file says lies under it.
    pub fn open_backing(&mut self, header: &Header) -> Result<Option<FormatAccess<HostFile>>, Error> {
        let Some(backing) = &header.backing else {
            return Ok(None);
        };
        let image = self.files.last().cloned().unwrap_or_default();
        let path = image.parent().unwrap_or(Path::new("")).join(&backing.name);
        if self.files.len() == MAX_FILES {
            return Err(Error::TooDeep { image, path });
        }
        let file = open_file(&image, &path)?;
        let metadata = file.metadata().map_err(|source| Error::io(&path, source))?;
        if self.identities.contains(&identity(&metadata)) {
            return Err(Error::Circle { image, path });
        }
        self.files.push(path.clone());
        self.identities.push(identity(&metadata));
        self.open_layer(file, &path, backing.format).map(Some)
    }

    /// A file that is only read, with all under it.
    fn open_layer(
        &mut self,
        file: File,
        path: &Path,
        format: Format,
    ) -> Result<FormatAccess<HostFile>, Error> {
        let failed = |source| Error::io(path, source);
        let file = HostFile::new(path.into(), file).map_err(failed)?;
        match format {
            Format::Raw => Ok(FormatAccess::new(Raw::open_image(file, false).map_err(failed)?)),
            Format::Qcow2 => {
                let header =
                    Header::read(file.file(), file.length()).map_err(|source| Error::header(path, source))?;
                let backing = self.open_backing(&header)?;
                let builder = imago::qcow2::Qcow2::builder(file).write(false).backing(backing);
                let image = builder.data_file(None).open(DenyImplicitOpenGate::default());
                Ok(FormatAccess::new(image.map_err(failed)?))
            }
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn open_file(image: &Path, path: &Path) -> Result<File, Error> {
    let failed = |source: io::Error| {
        let (image, path) = (image.into(), path.into());
        match source.kind() {
            io::ErrorKind::NotFound => Error::BackingMissing { image, path },
            _ => Error::BackingOpen { image, path, source },
        }
    };
    let check_kind = |metadata: Metadata| {
        let kind = metadata.file_type();
        match kind.is_file() || kind.is_block_device() {
            true => Ok(()),
            false => Err(Error::BackingKind {
                image: image.into(),
                path: path.into(),
            }),
        }
    };
    // Before it is opened, which sets some devices off, and after it, in case that it was replaced; a FIFO put there
    // meanwhile makes nobody wait.
    check_kind(path.metadata().map_err(failed)?)?;
    let options = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = options.map_err(failed)?;
    check_kind(file.metadata().map_err(failed)?)?;
    match file.try_lock_shared() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::BackingInUse {
            image: image.into(),
            path: path.into(),
        }),
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) => {
            log::warn!("cannot lock backing file {path:?}: {error}");
            Ok(file)
        }
    }
}

#[cfg(test)]
#[path = "backing_test.rs"]
mod tests;
