//! What the host tells about the blocks of a file or a device.

use std::fs::{File, Metadata};
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::virtio::block::request::SECTOR_SIZE;

/// The block size that is assumed where the host tells none. Every device and file system of today can do it.
const BLOCK: u32 = 4096;

/// What direct I/O demands of a request, in bytes. Both are powers of two.
#[derive(Debug, Clone, Copy)]
pub struct Direct {
    /// The alignment of the addresses and lengths of buffers.
    pub memory_alignment: usize,
    /// The alignment of offsets and lengths on the disk.
    pub offset_alignment: u64,
}

impl Direct {
    /// Asks the host what it demands for `file`, which is open for direct I/O.
    pub fn of(file: &File) -> io::Result<Self> {
        // SAFETY: a statx of zeroes is a valid value.
        let mut statx: libc::statx = unsafe { mem::zeroed() };
        // SAFETY: the path is an empty C string, so the descriptor is the file; the answer fits in `statx`.
        let result = unsafe {
            libc::statx(
                file.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                STATX_DIOALIGN,
                &mut statx,
            )
        };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
        let said = |alignment: u32| alignment.is_power_of_two().then_some(alignment);
        let known = statx.stx_mask & STATX_DIOALIGN != 0;
        let or_block = |alignment| said(alignment).filter(|_| known).unwrap_or(BLOCK);
        let memory = or_block(statx.stx_dio_mem_align);
        let offset = or_block(statx.stx_dio_offset_align);
        Ok(Self {
            // Some kernels demand that the length of each buffer is a multiple of the block size, although they demand
            // less of its address.
            memory_alignment: memory.max(offset) as usize,
            offset_alignment: u64::from(offset).max(SECTOR_SIZE),
        })
    }
}

/// Sets the status flags of `file` (open(2)): O_DIRECT, or none.
pub fn set_status(file: &File, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is passed on.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// From linux/stat.h; kernels before 6.1 do not know it.
const STATX_DIOALIGN: u32 = 0x2000;

/// The size in bytes of the blocks that the host always writes whole: a power of two, at least [`SECTOR_SIZE`].
pub fn physical_block_size(file: &File, metadata: &Metadata) -> u64 {
    let said = match metadata.file_type().is_block_device() {
        true => physical_block_of_device(file),
        false => Some(metadata.blksize().min(BLOCK.into())),
    };
    said.filter(|size| size.is_power_of_two() && *size >= SECTOR_SIZE)
        .unwrap_or(BLOCK.into())
}

fn physical_block_of_device(file: &File) -> Option<u64> {
    let mut size: libc::c_uint = 0;
    // SAFETY: BLKPBSZGET writes one unsigned int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKPBSZGET as _, &mut size) };
    (result == 0).then_some(size.into())
}
