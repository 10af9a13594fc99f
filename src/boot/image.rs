//! A file that a guest boots from, and how its bytes get into guest memory.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, ReadVolatile,
    VolatileMemoryError,
};

use super::error::{Error, Problem};
use super::map::StableFile;
use crate::plain_text::shell_word;

/// A kernel or initrd: a file, or bytes carried inside the program.
#[derive(Debug)]
pub enum Image {
    File {
        path: PathBuf,
        file: File,
    },
    BuiltIn {
        name: &'static str,
        bytes: &'static [u8],
        /// A file that holds the same bytes.
        file: Option<StableFile>,
    },
}

impl Image {
    /// Opens a regular, non-empty file for reading.
    pub fn open(path: &Path) -> Result<Image, Error> {
        open(path)
            .map(|file| Image::File {
                path: path.to_owned(),
                file,
            })
            .map_err(|problem| Error {
                image: shell_word(path),
                problem,
            })
    }

    pub(super) fn error(&self, problem: Problem) -> Error {
        Error {
            image: self.to_string(),
            problem,
        }
    }
}

/// The file's path, or the built-in image's name.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Image::File { path, .. } => f.write_str(&shell_word(path)),
            Image::BuiltIn { name, .. } => f.write_str(name),
        }
    }
}

fn open(path: &Path) -> Result<File, Problem> {
    // A pipe without a writer would block the open; a regular file takes no notice of O_NONBLOCK.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| {
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Problem::Missing,
                io::ErrorKind::PermissionDenied => Problem::Forbidden,
                _ => match error.raw_os_error() {
                    // What opening a socket, or a device without a driver, gives.
                    Some(libc::ENXIO | libc::ENODEV) => Problem::NotAFile,
                    _ => Problem::Read(error),
                },
            }
        })?;
    let metadata = file.metadata().map_err(Problem::Read)?;
    match () {
        () if metadata.is_dir() => Err(Problem::Directory),
        () if !metadata.is_file() => Err(Problem::NotAFile),
        () if metadata.len() == 0 => Err(Problem::Empty),
        () => Ok(file),
    }
}

/// Where a kernel's bytes come from: an image as it is, or what is packed inside one.
///
/// A read beyond `length` is an error; no read gives fewer bytes than were asked for.
pub(super) trait Source {
    fn length(&self) -> Result<u64, Problem>;
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Problem>;
    /// Puts `length` bytes from `offset` into guest memory at `address`.
    fn load(
        &mut self,
        offset: u64,
        length: u64,
        memory: &GuestMemoryMmap,
        address: GuestAddress,
    ) -> Result<(), Problem>;

    /// The same for bytes of which the guest writes few. Where that is possible they are mapped and not copied: a page
    /// is shared with the host's page cache until the guest writes to it.
    fn share(
        &mut self,
        offset: u64,
        length: u64,
        memory: &GuestMemoryMmap,
        address: GuestAddress,
    ) -> Result<(), Problem> {
        self.load(offset, length, memory, address)
    }
}

impl Source for &Image {
    fn length(&self) -> Result<u64, Problem> {
        match self {
            Image::File { file, .. } => Ok(file.metadata().map_err(Problem::Read)?.len()),
            Image::BuiltIn { bytes, .. } => Ok(bytes.len() as u64),
        }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        match self {
            Image::File { file, .. } => file.read_exact_at(buffer, offset).map_err(Problem::reading),
            Image::BuiltIn { bytes, .. } => {
                buffer.copy_from_slice(part(bytes, offset, buffer.len() as u64)?);
                Ok(())
            }
        }
    }

    fn load(
        &mut self,
        offset: u64,
        length: u64,
        memory: &GuestMemoryMmap,
        address: GuestAddress,
    ) -> Result<(), Problem> {
        match self {
            Image::File { file, .. } => read_into_guest(file, offset, length, memory, address),
            Image::BuiltIn { bytes, file, .. } => {
                let bytes = part(bytes, offset, length)?;
                match file {
                    // Reading the file costs less than page faults in the program's own mapping of it.
                    Some(StableFile { file, offset: start }) => {
                        read_into_guest(file, start + offset, length, memory, address)
                    }
                    None => memory.write_slice(bytes, address).map_err(Problem::GuestMemory),
                }
            }
        }
    }

    fn share(
        &mut self,
        offset: u64,
        length: u64,
        memory: &GuestMemoryMmap,
        address: GuestAddress,
    ) -> Result<(), Problem> {
        let mapped = match self {
            Image::BuiltIn {
                bytes,
                file: Some(file),
                ..
            } => {
                part(bytes, offset, length)?;
                file.map(offset, length, memory, address)?
            }
            // A person's file is copied: a change to it must not change a guest that runs.
            _ => 0..0,
        };
        for rest in [0..mapped.start, mapped.end..length] {
            let to = GuestAddress(address.0 + rest.start);
            self.load(offset + rest.start, rest.end - rest.start, memory, to)?;
        }
        Ok(())
    }
}

/// Reads from the file straight into the guest's pages.
fn read_into_guest(
    mut file: &File,
    offset: u64,
    length: u64,
    memory: &GuestMemoryMmap,
    address: GuestAddress,
) -> Result<(), Problem> {
    file.seek(SeekFrom::Start(offset)).map_err(Problem::Read)?;
    for slice in memory.get_slices(address, length as usize) {
        let mut slice = slice.map_err(Problem::GuestMemory)?;
        file.read_exact_volatile(&mut slice)
            .map_err(|error| match error {
                VolatileMemoryError::IOError(error) => Problem::reading(error),
                other => Problem::GuestMemory(GuestMemoryError::from(other)),
            })?;
    }
    Ok(())
}

fn part(bytes: &'static [u8], offset: u64, length: u64) -> Result<&'static [u8], Problem> {
    let end = offset.saturating_add(length);
    bytes
        .get(offset as usize..end as usize)
        .ok_or(Problem::Truncated {
            part: "a part of it",
            end,
            length: bytes.len() as u64,
        })
}

/// Bytes `position..end` of an image as a stream.
pub(super) struct ImageReader<'a> {
    pub(super) image: &'a Image,
    pub(super) position: u64,
    pub(super) end: u64,
}

impl Read for ImageReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.position);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..wanted];
        let count = match self.image {
            Image::File { file, .. } => file.read_at(buffer, self.position)?,
            Image::BuiltIn { bytes, .. } => bytes
                .get(self.position as usize..)
                .unwrap_or_default()
                .read(buffer)?,
        };
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
#[path = "image_test.rs"]
mod tests;
