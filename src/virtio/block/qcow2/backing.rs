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
use crate::plain_text::clean;
use crate::virtio::block::image::identity::Identity;
use crate::virtio::block::image::lock::{self, Access};

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

/// A backing file, open for reading.
struct Found {
    /// The image that names it.
    image: PathBuf,
    path: PathBuf,
    file: File,
    format: Format,
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
        let Some(Found {
            image,
            path,
            file,
            format,
        }) = self.find_backing(header)?
        else {
            return Ok(None);
        };
        let file = lock::lock(file, &path, Access::Read).map_err(|holder| {
            let path = path.clone();
            match holder.is_own() {
                true => Error::BackingIsADisk { image, path },
                false => Error::BackingInUse { image, path, holder },
            }
        })?;
        let failed = |source| Error::io(&path, source);
        let file = HostFile::new(path.clone(), file).map_err(failed)?;
        match format {
            Format::Raw => Raw::open_image(file, false).map(FormatAccess::new),
            Format::Qcow2 => {
                let header = self.header_below(&file)?;
                let file = file.holding(&header);
                let backing = self.open_backing(&header)?;
                let builder = imago::qcow2::Qcow2::builder(file).write(false).backing(backing);
                let image = builder.data_file(None).open(DenyImplicitOpenGate::default());
                image.map(FormatAccess::new)
            }
        }
        .map(Some)
        .map_err(failed)
    }

    /// Describes the files under the image with this header, from the first to the last, a line for each. They are found,
    /// opened and read as a run would do it, but not locked. If a run would refuse one of them, the last line says why.
    pub fn describe_backing(&mut self, header: &Header) -> Vec<String> {
        let mut lines = Vec::new();
        if let Err(refusal) = self.describe_files_under(header, &mut lines) {
            lines.push(format!("a file that a run refuses: {refusal}"));
        }
        lines
    }

    fn describe_files_under(&mut self, header: &Header, lines: &mut Vec<String>) -> Result<(), Error> {
        let mut next = self.find_backing(header)?;
        while let Some(found) = next {
            let shown = clean(&found.path.to_string_lossy());
            next = match found.format {
                Format::Raw => {
                    lines.push(format!("{shown} (raw)"));
                    None
                }
                Format::Qcow2 => {
                    let file = HostFile::new(found.path.clone(), found.file);
                    let header =
                        self.header_below(&file.map_err(|source| Error::io(&found.path, source))?)?;
                    lines.push(format!("{shown} (qcow2)"));
                    self.find_backing(&header)?
                }
            };
        }
        Ok(())
    }

    /// Finds the backing file that `header` names, and opens it for reading if the person permits it. `header` is that of the
    /// chain's last file; from then on the backing file is the last.
    fn find_backing(&mut self, header: &Header) -> Result<Option<Found>, Error> {
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
        self.files.push(path.clone());
        self.identities.push(identity);
        Ok(Some(Found {
            image,
            path,
            file,
            format: backing.format,
        }))
    }

    /// Reads the header of `file`, which is the chain's last one and lies under another.
    fn header_below(&mut self, file: &HostFile) -> Result<Header, Error> {
        let failed = |source| Error::header(file.path(), source);
        let header = Header::read(file.file(), file.length()).map_err(failed)?;
        if header.data_file.is_some() {
            return Err(failed(HeaderError::DataFileBelow));
        }
        self.take_memory(&header, false)?;
        Ok(header)
    }
}

#[cfg(test)]
#[path = "backing_test.rs"]
mod tests;
