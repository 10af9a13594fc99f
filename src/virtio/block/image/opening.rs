//! Opens the file of a disk, and finds out its format and whether it can be a disk at all.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::error::{OpenError, advice};
use super::foreign;
use super::geometry::{self, Direct};
use super::lock::{self, Access, Busy, Locked};
use super::loop_device;
use crate::config::{Cache, Disk, Format};
use crate::plain_text::shell_word;
use crate::virtio::block::request::SECTOR_SIZE;

/// How a qcow2 file begins.
pub const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// How often claiming a device whose lock is free is tried, and how long the pauses between the tries are: at least half a
/// second in all. Tries are counted, and not time, because the host itself may stand still.
const TRIES_AFTER_LOCK: u32 = 500;
const PAUSE: Duration = Duration::from_millis(1);

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be a guest's disk. The file is locked, and open for writing unless the disk is only read.
    Use,
    /// To tell what it is. The file is not locked, and cannot be written.
    Look,
}

/// A disk's own file, open.
pub struct Opened {
    pub file: Locked,
    pub metadata: Metadata,
    /// In bytes.
    pub size: u64,
    pub format: Format,
}

/// Opens the file that `disk` names.
pub fn open(disk: &Disk, purpose: Purpose) -> Result<Opened, OpenError> {
    let file = open_and_lock(disk, purpose)?;
    let failed = |source| cannot_open(disk, source);
    let metadata = file.metadata().map_err(failed)?;
    // The metadata of a block device has no size, so the size is where the end is.
    let size = (&*file).seek(SeekFrom::End(0)).map_err(failed)?;
    if size == 0 {
        return Err(OpenError::Empty {
            path: disk.file.clone(),
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

/// Opens the file that `disk` names, whatever is in it.
pub fn open_and_lock(disk: &Disk, purpose: Purpose) -> Result<Locked, OpenError> {
    let path = disk.file.as_path();
    let failed = |source| cannot_open(disk, source);
    // The kind is checked before the file is opened, because opening a FIFO can wait for ever, and opening some
    // character devices makes them do something.
    let before = path.metadata().map_err(failed)?;
    check_kind(path, &before)?;
    let is_block_device = before.file_type().is_block_device();
    let file = match purpose {
        Purpose::Use if is_block_device && !disk.is_only_read() => claim(disk)?,
        Purpose::Use => open_file(path, !disk.is_only_read(), 0).map_err(failed)?,
        Purpose::Look => open_file(path, false, 0).map_err(failed)?,
    };
    let mut file = match purpose {
        Purpose::Use => lock_for(disk, file)?,
        Purpose::Look => file.into(),
    };
    let metadata = file.metadata().map_err(failed)?;
    // Between that check and the opening, another file may have taken its place.
    check_kind(path, &metadata)?;
    if metadata.file_type().is_block_device() != is_block_device {
        return Err(failed(io::Error::other("another file took its place meanwhile")));
    }
    // O_NONBLOCK was for the case that a FIFO took its place. The engines need a file without it.
    geometry::set_status(&file, 0).map_err(failed)?;
    if purpose == Purpose::Use && metadata.is_file() && !disk.is_only_read() {
        claim_loop_devices_over(disk, &mut file, &metadata)?;
    }
    Ok(file)
}

/// Checks the size of a raw image, and switches its file to direct I/O if the disk asks for that. The answer is what
/// direct I/O demands of requests.
pub fn prepare(disk: &Disk, file: &File, size: u64) -> Result<Option<Direct>, OpenError> {
    let direct = match disk.cache {
        Cache::Direct => Some(straight_to_device(disk, file)?),
        Cache::Writeback | Cache::Writethrough => None,
    };
    check_size(&disk.file, size, block_size(direct))?;
    Ok(direct)
}

/// The block size of the disk, of which the offset and the length of each request are multiples.
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

/// Opens a block device for writing, unless the host itself uses it: as a mounted file system, for example. While the
/// device is open, the host cannot start to use it.
fn claim(disk: &Disk) -> Result<File, OpenError> {
    let path = disk.file.as_path();
    let failed = |source| cannot_open(disk, source);
    let try_once = || open_file(path, true, libc::O_EXCL);
    match try_once() {
        Err(error) if is_busy(&error) => {}
        other => return other.map_err(failed),
    }
    // If another guest claimed the device, it has also locked it, and the lock tells which process that is. The lock of
    // a process that died is waited for; the kernel frees the lock first, and the device a moment later.
    let file = open_file(path, false, 0).map_err(failed)?;
    drop(lock_for(disk, file)?);
    match repeat_while_busy(try_once) {
        Err(error) if is_busy(&error) => Err(OpenError::Mounted { path: path.into() }),
        other => other.map_err(failed),
    }
}

/// Claims a device whose lock is free. The device becomes free a moment later than the lock if the process that had it
/// died, or forked a child that has yet to execute its program.
pub(super) fn repeat_while_busy(claim: impl Fn() -> io::Result<File>) -> io::Result<File> {
    for _ in 0..TRIES_AFTER_LOCK {
        match claim() {
            Err(error) if is_busy(&error) => thread::sleep(PAUSE),
            other => return other,
        }
    }
    claim()
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

/// Claims the loop devices whose contents are in `file`, which a guest will write: the host may have mounted one of them.
fn claim_loop_devices_over(disk: &Disk, file: &mut Locked, metadata: &Metadata) -> Result<(), OpenError> {
    for device in loop_device::devices_over(metadata) {
        match repeat_while_busy(|| loop_device::claim(&device)) {
            Ok(claimed) => file
                .keep(claimed, Access::Write)
                .map_err(|holder| in_use(disk, holder))?,
            Err(error) if is_busy(&error) => {
                let path = disk.file.clone();
                return Err(OpenError::MountedByLoop { path, device });
            }
            Err(error) => log::debug!("cannot tell whether the host uses {device:?}: {error}"),
        }
    }
    Ok(())
}

/// Locks a file that a guest will write, and which somebody else has opened. One without a name is nobody else's.
pub fn lock_handed_over(disk: &Disk, file: File, metadata: &Metadata) -> Result<Locked, OpenError> {
    if metadata.nlink() == 0 {
        return Ok(file.into());
    }
    let mut file = lock_for(disk, file)?;
    claim_loop_devices_over(disk, &mut file, metadata)?;
    Ok(file)
}

fn lock_for(disk: &Disk, file: File) -> Result<Locked, OpenError> {
    let access = match disk.is_only_read() {
        true => Access::Read,
        false => Access::Write,
    };
    lock::lock(file, &disk.file, access).map_err(|holder| in_use(disk, holder))
}

fn in_use(disk: &Disk, holder: Busy) -> OpenError {
    let path = disk.file.clone();
    match holder.is_own() {
        true => OpenError::UnderAnother { path },
        false => OpenError::InUse { path, holder },
    }
}

pub fn cannot_open(disk: &Disk, source: io::Error) -> OpenError {
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

/// The command that makes an empty image at the path of `disk`.
fn how_to_make(disk: &Disk) -> String {
    let word = shell_word(&disk.file);
    match disk.stated_format() {
        Some(Format::Qcow2) => format!("qemu-img create -f qcow2 {word} 1G"),
        _ => format!("truncate -s 1G {word}"),
    }
}

/// Switches `file` to direct I/O: reads and writes bypass the page cache from here on.
fn straight_to_device(disk: &Disk, file: &File) -> Result<Direct, OpenError> {
    geometry::set_status(file, libc::O_DIRECT).map_err(|source| OpenError::NotDirect {
        path: disk.file.clone(),
        source,
    })?;
    Direct::of(file).map_err(|source| cannot_open(disk, source))
}

pub fn check_size(path: &Path, size: u64, block: u64) -> Result<(), OpenError> {
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

pub fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
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

/// The format of the file. The option `format` decides it; without that option the file's name does, and a file whose
/// bytes look like another format is refused. Bytes alone never decide that a file is a qcow2 image, because the guest
/// can write the first bytes of its raw image.
fn format_of(disk: &Disk, file: &File, size: u64) -> Result<Format, OpenError> {
    if let Some(format) = disk.format {
        return Ok(format);
    }
    let path = || disk.file.clone();
    let failed = |source| cannot_open(disk, source);
    let (mut start, mut end) = ([0; foreign::START], [0; foreign::END]);
    let count = file.read_at(&mut start, 0).map_err(failed)?;
    let start = &start[..count];
    // A guest can write the last bytes of its qcow2 image, too, so the end of such a file says nothing.
    let is_qcow2 = start.starts_with(&QCOW2_MAGIC);
    if is_qcow2 && disk.stated_format() == Some(Format::Qcow2) {
        return Ok(Format::Qcow2);
    }
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
        None if is_qcow2 => Err(OpenError::Ambiguous { path: path() }),
        None => Ok(Format::Raw),
    }
}

#[cfg(test)]
#[path = "opening_test.rs"]
mod tests;
