//! The file that a disk names: what it is, and whether it can be one.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::error::{OpenError, advice};
use super::foreign;
use super::geometry::{self, Direct};
use super::lock::{self, Access};
use crate::config::{Cache, Disk, Format};
use crate::plain_text::shell_word;
use crate::virtio::block::qcow2;
use crate::virtio::block::request::SECTOR_SIZE;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A guest's disk: locked, and open for writing unless it is only read.
    Use,
    /// To tell what it is: not locked, and never written.
    Look,
}

/// A disk's own file, open.
pub struct Opened {
    pub file: File,
    pub metadata: Metadata,
    /// In bytes.
    pub size: u64,
    pub format: Format,
}

/// Opens the file that `disk` names.
pub fn open(disk: &Disk, purpose: Purpose) -> Result<Opened, OpenError> {
    let path = disk.file.as_path();
    let failed = |source| cannot_open(disk, source);
    // Before it is opened, which would wait for ever on a FIFO and set some devices off.
    let before = path.metadata().map_err(failed)?;
    check_kind(path, &before)?;
    let is_block_device = before.file_type().is_block_device();
    let file = match purpose {
        Purpose::Use if is_block_device && !disk.is_only_read() => claim(disk)?,
        Purpose::Use => open_file(path, !disk.is_only_read(), 0).map_err(failed)?,
        Purpose::Look => open_file(path, false, 0).map_err(failed)?,
    };
    if purpose == Purpose::Use {
        lock_for(disk, &file)?;
    }
    let metadata = file.metadata().map_err(failed)?;
    // Another file may have come in its place.
    check_kind(path, &metadata)?;
    if metadata.file_type().is_block_device() != is_block_device {
        return Err(failed(io::Error::other("another file took its place meanwhile")));
    }
    // Not waiting was for the FIFO that it might have been.
    geometry::set_status(&file, 0).map_err(failed)?;
    // A block device has no size in its metadata; both have an end.
    let size = (&file).seek(SeekFrom::End(0)).map_err(failed)?;
    if size == 0 {
        return Err(OpenError::Empty {
            path: path.into(),
            make: how_to_make(disk),
        });
    }
    let format = format_of(disk, &file, size)?;
    Ok(Opened {
        file,
        metadata,
        size,
        format,
    })
}

/// Checks the size of a raw image. What direct I/O asks of it, if this is that: from here on it is.
pub fn prepare(disk: &Disk, file: &File, size: u64) -> Result<Option<Direct>, OpenError> {
    let direct = match disk.cache {
        Cache::Direct => Some(straight_to_device(disk, file)?),
        Cache::Writeback | Cache::Writethrough => None,
    };
    check_size(&disk.file, size, block_size(direct))?;
    Ok(direct)
}

/// What the guest's requests are multiples of.
pub fn block_size(direct: Option<Direct>) -> u64 {
    direct.map_or(SECTOR_SIZE, |direct| direct.offset_alignment)
}

fn open_file(path: &Path, write: bool, flags: libc::c_int) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NONBLOCK | flags)
        .open(path)
}

/// Opens a block device for writing, unless the host has it: mounted, or as a part of something. From then on the host
/// does not take it.
fn claim(disk: &Disk) -> Result<File, OpenError> {
    let path = disk.file.as_path();
    let failed = |source| cannot_open(disk, source);
    let try_once = || open_file(path, true, libc::O_EXCL);
    let is_busy = |error: &io::Error| error.kind() == io::ErrorKind::ResourceBusy;
    match try_once() {
        Err(error) if is_busy(&error) => {}
        other => return other.map_err(failed),
    }
    // Another guest may have claimed it, and has it locked then: one that is dead lets go of both soon.
    let file = open_file(path, false, 0).map_err(failed)?;
    lock_for(disk, &file)?;
    drop(file);
    try_once().map_err(|error| match is_busy(&error) {
        true => OpenError::Mounted { path: path.into() },
        false => failed(error),
    })
}

fn lock_for(disk: &Disk, file: &File) -> Result<(), OpenError> {
    let access = match disk.is_only_read() {
        true => Access::Read,
        false => Access::Write,
    };
    let path = disk.file.clone();
    lock::lock(file, &disk.file, access).map_err(|holder| match holder.is_own() {
        true => OpenError::UnderAnother { path },
        false => OpenError::InUse { path, holder },
    })
}

fn cannot_open(disk: &Disk, source: io::Error) -> OpenError {
    let path = disk.file.clone();
    match source.kind() {
        io::ErrorKind::NotFound => OpenError::Missing {
            path,
            make: how_to_make(disk),
        },
        _ => OpenError::Open {
            path,
            advice: advice(&source, disk.is_only_read()),
            source,
        },
    }
}

/// The command that makes an empty image of what `disk` names.
fn how_to_make(disk: &Disk) -> String {
    let word = shell_word(&disk.file);
    match disk.stated_format() {
        Some(Format::Qcow2) => format!("qemu-img create -f qcow2 {word} 1G"),
        _ => format!("truncate -s 1G {word}"),
    }
}

/// From here on `file` is read and written past the page cache.
fn straight_to_device(disk: &Disk, file: &File) -> Result<Direct, OpenError> {
    geometry::set_status(file, libc::O_DIRECT).map_err(|source| OpenError::NotDirect {
        path: disk.file.clone(),
        source,
    })?;
    Direct::of(file).map_err(|source| cannot_open(disk, source))
}

fn check_size(path: &Path, size: u64, block: u64) -> Result<(), OpenError> {
    let path = || path.to_owned();
    match size {
        size if !size.is_multiple_of(SECTOR_SIZE) => Err(OpenError::PartialSector { path: path(), size }),
        size if !size.is_multiple_of(block) => Err(OpenError::PartialBlock {
            path: path(),
            size,
            block,
        }),
        _ => Ok(()),
    }
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
    let kind = metadata.file_type();
    let found = match () {
        _ if kind.is_file() || kind.is_block_device() => return Ok(()),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a character device",
    };
    Err(OpenError::NotAnImage {
        path: path.into(),
        found,
    })
}

/// What the file is: as the person says, or else by its name, unless its own bytes say another thing. A guest writes the
/// first bytes of a raw image, so they alone decide nothing.
fn format_of(disk: &Disk, file: &File, size: u64) -> Result<Format, OpenError> {
    if let Some(format) = disk.format {
        return Ok(format);
    }
    let path = || disk.file.clone();
    let failed = |source| cannot_open(disk, source);
    let (mut start, mut end) = ([0; foreign::START], [0; foreign::END]);
    let count = file.read_at(&mut start, 0).map_err(failed)?;
    let start = &start[..count];
    let from = size.saturating_sub(end.len() as u64);
    let count = file.read_at(&mut end, from).map_err(failed)?;
    if let Some(format) = foreign::recognise(start, &end[..count]) {
        return Err(OpenError::Foreign {
            format: format.name,
            advice: format.advice(&disk.file),
            path: path(),
        });
    }
    match disk.stated_format() {
        Some(format) => Ok(format),
        None if start.starts_with(&qcow2::MAGIC) => Err(OpenError::Ambiguous { path: path() }),
        None => Ok(Format::Raw),
    }
}

#[cfg(test)]
#[path = "opening_test.rs"]
mod tests;
