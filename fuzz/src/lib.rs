//! What the targets share: files and guest memory that are quick to make anew for every input.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A file that never touches a disk and leaves nothing behind, with a path like any other.
pub struct MemoryFile(File);

impl Default for MemoryFile {
    fn default() -> Self {
        // SAFETY: the name is a C string, and no memory is passed on.
        let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        // SAFETY: a descriptor that was opened here and belongs to nobody else.
        Self(unsafe { File::from_raw_fd(fd) })
    }
}

impl MemoryFile {
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    pub fn replace(&self, bytes: &[u8]) {
        self.0.set_len(0).expect("a file in memory shrinks");
        self.write_at(bytes, 0);
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) {
        self.0
            .write_all_at(bytes, offset)
            .expect("a file in memory is written");
    }

    pub fn contents(&self) -> Vec<u8> {
        std::fs::read(self.path()).expect("a file in memory is read")
    }
}

/// Guest memory that is mapped once and emptied for every input.
pub struct Guest {
    pub memory: GuestMemoryMmap,
    ranges: Vec<(GuestAddress, usize)>,
}

impl Guest {
    /// Each range is a start and a size, multiples of a page.
    pub fn new(ranges: &[(u64, usize)]) -> Self {
        let ranges: Vec<_> = ranges
            .iter()
            .map(|&(start, size)| (GuestAddress(start), size))
            .collect();
        let memory = GuestMemoryMmap::from_ranges(&ranges).expect("guest memory is mapped");
        Self { memory, ranges }
    }

    /// Makes all of guest memory zero again, at the price of the pages that were written.
    pub fn discard(&self) {
        for &(start, size) in &self.ranges {
            let address = self
                .memory
                .get_host_address(start)
                .expect("a range of guest memory has a host address");
            // SAFETY: the range is a private anonymous mapping of its own, and nobody holds references into it.
            let result = unsafe { libc::madvise(address.cast(), size, libc::MADV_DONTNEED) };
            assert_eq!(result, 0, "madvise: {}", std::io::Error::last_os_error());
        }
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("the range is in guest memory");
        bytes
    }

    pub fn is_zero(&self, range: std::ops::Range<u64>) -> bool {
        const PAGE: usize = 4096;
        let mut page = [0; PAGE];
        range.clone().step_by(PAGE).all(|address| {
            let part = &mut page[..(range.end - address).min(PAGE as u64) as usize];
            self.memory
                .read_slice(part, GuestAddress(address))
                .expect("the range is in guest memory");
            *part == [0; PAGE][..part.len()]
        })
    }
}
