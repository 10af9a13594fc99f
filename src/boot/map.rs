//! Pages of a file as guest memory, copy-on-write: nothing is read before the guest touches it, and what it never
//! writes is the host's page cache, shared by all guests.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::error::Problem;

const PAGE: u64 = 0x1000;

/// Bytes of a file that nobody changes or shortens while a guest runs.
#[derive(Debug)]
pub struct StableFile {
    pub file: File,
    /// Where they start in it.
    pub offset: u64,
}

impl StableFile {
    /// Maps those of `length` bytes from `offset` that are whole pages over guest memory at `address`, and returns which
    /// they are, counted from `offset`. There are none when the bytes begin elsewhere in a page of the file than in a page
    /// of guest memory.
    pub(super) fn map(
        &self,
        offset: u64,
        length: u64,
        memory: &GuestMemoryMmap,
        address: GuestAddress,
    ) -> Result<Range<u64>, Problem> {
        let start = address.0.next_multiple_of(PAGE) - address.0;
        let end = ((address.0 + length) & !(PAGE - 1)).saturating_sub(address.0);
        let in_file = self.offset + offset + start;
        if !in_file.is_multiple_of(PAGE) || start >= end {
            return Ok(0..0);
        }
        let slice = memory
            .get_slice(GuestAddress(address.0 + start), (end - start) as usize)
            .map_err(Problem::GuestMemory)?;
        // SAFETY: the slice is guest memory from its start to its end, and the new mapping has the same size and rights. If
        // the call fails after it removed the old mapping, the caller drops the machine and does not touch the hole. The
        // type promises that the file keeps its length: a page beyond its end would be a SIGBUS.
        let mapped = unsafe {
            libc::mmap(
                slice.ptr_guard_mut().as_ptr().cast(),
                slice.len(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                self.file.as_raw_fd(),
                in_file as libc::off_t,
            )
        };
        match mapped {
            libc::MAP_FAILED => Err(Problem::Read(io::Error::last_os_error())),
            // SAFETY: these are the pages that were mapped just now, and the advice changes no contents.
            mapped => unsafe {
                // A core dump is not to hold what the guest writes there.
                libc::madvise(mapped, slice.len(), libc::MADV_DONTDUMP);
                Ok(start..end)
            },
        }
    }
}

#[cfg(test)]
#[path = "map_test.rs"]
mod tests;
