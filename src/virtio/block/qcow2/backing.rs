//! The files under an image: opened for reading, each named by the one above it and permitted by the person.

use std::fs::File;
use std::path::{Path, PathBuf};

use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};

use super::Error;
use super::budget::Budget;
use super::header::{Header, HeaderError};
use super::host_file::HostFile;
use super::permit::{self, Permitted};
use crate::config::{Backing, Format};
use crate::virtio::block::image::identity::Identity;
use crate::virtio::block::image::lock::{self, Access, Locked};

/// How many files a chain can have. Opening a chain is recursive, and this many fit on the stack by far. A useful chain
/// has only a few.
const MAX_FILES: usize = 64;

/// The files of an image, the image itself first.
pub struct Chain<'a> {
    /// The files that the person permits.
    permission: &'a Backing,
    files: Vec<PathBuf>,
    identities: Vec<Identity>,
    budget: Budget,
}

impl<'a> Chain<'a> {
    pub fn new(path: &Path, file: &File, permission: &'a Backing) -> Result<Self, Error> {
        let identity = Identity::of(file).map_err(|source| Error::io(path, source))?;
        Ok(Self {
            permission,
            files: vec![path.into()],
            identities: vec![identity],
            budget: Budget::default(),
        })
    }

    pub fn into_files(self) -> Vec<PathBuf> {
        self.files
    }

    /// Records that the chain's first image has its data in this file, which then cannot be a backing file as well.
    pub fn take_data_file(&mut self, data: &HostFile) -> Result<(), Error> {
        let identity = Identity::of(data.file()).map_err(|source| Error::io(data.path(), source))?;
        self.identities.push(identity);
        Ok(())
    }

    /// Takes what the tables of the chain's last file, which has this header, need of the chain's memory.
    pub fn take_memory(&mut self, header: &Header, is_written: bool) -> Result<(), Error> {
        match self.budget.take(header, is_written) {
            true => Ok(()),
            false => Err(Error::Tables {
                image: self.files.first().cloned().unwrap_or_default(),
                path: self.files.last().cloned().unwrap_or_default(),
            }),
        }
    }

    /// Opens the backing file that `header` names, with all files under it. `header` is that of the chain's last file.
    pub fn open_backing(&mut self, header: &Header) -> Result<Option<FormatAccess<HostFile>>, Error> {
        let Some(backing) = &header.backing else {
            return Ok(None);
        };
        let image = self.files.last().cloned().unwrap_or_default();
        let refused = |refusal| Error::refused(&image, &permit::named_by(&image, &backing.name), refusal);
        let permitted = Permitted::by(self.permission, &image, &backing.name).map_err(refused)?;
        let path = permitted.path();
        if self.files.len() == MAX_FILES {
            return Err(Error::TooDeep { image, path });
        }
        let (file, identity) = permitted
            .open(&self.identities)
            .map_err(|refusal| Error::refused(&image, &path, refusal))?;
        let file = lock::lock(file, &path, Access::Read).map_err(|holder| {
            let (image, path) = (image.clone(), path.clone());
            match holder.is_own() {
                true => Error::BackingIsADisk { image, path },
                false => Error::BackingInUse { image, path, holder },
            }
        })?;
        self.files.push(path.clone());
        self.identities.push(identity);
        self.open_layer(file, &path, backing.format).map(Some)
    }

    /// Makes a layer of a file that is only read, with all layers under it.
    fn open_layer(
        &mut self,
        file: Locked,
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
                if header.data_file.is_some() {
                    return Err(Error::header(path, HeaderError::DataFileBelow));
                }
                self.take_memory(&header, false)?;
                let file = file.holding(&header);
                let backing = self.open_backing(&header)?;
                let builder = imago::qcow2::Qcow2::builder(file).write(false).backing(backing);
                let image = builder.data_file(None).open(DenyImplicitOpenGate::default());
                Ok(FormatAccess::new(image.map_err(failed)?))
            }
        }
    }
}

#[cfg(test)]
#[path = "backing_test.rs"]
mod tests;
