//! What the targets share: files, directories and guest memory that are quick to make anew for every input.

pub mod hostile_driver;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A file in memory that has a path like any other file.
pub struct MemoryFile(File);

impl Default for MemoryFile {
    fn default() -> Self {
        // SAFETY: the name is a C string, and no memory is passed on.
        let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
        // SAFETY: a descriptor that was opened here and belongs to nobody else.
        Self(unsafe { File::from_raw_fd(fd) })
    }
}

impl MemoryFile {
    /// The same file with the descriptor `number`, which nobody may have.
    pub fn at(self, number: i32) -> Self {
        // SAFETY: no memory is passed on.
        let fd = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
        assert_eq!(fd, number, "fcntl: {}", io::Error::last_os_error());
        // SAFETY: a descriptor that was made here and belongs to nobody else.
        Self(unsafe { File::from_raw_fd(fd) })
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    pub fn file(&self) -> &File {
        &self.0
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

/// A new directory for this process, in memory if there is such a file system.
pub fn scratch_directory(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let parent = match memory.is_dir() {
        true => memory,
        false => std::env::temp_dir(),
    };
    let place = parent.join(format!("coracle-fuzz-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&place).expect("a directory is made");
    place
}

const PAGE: u64 = 4096;

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
        let guest = Self { memory, ranges };
        // A huge page would be touched as a whole.
        guest.advise(libc::MADV_NOHUGEPAGE);
        guest
    }

    /// Makes all of guest memory zero and untouched again. Costs time only for the pages that were touched.
    pub fn discard(&self) {
        self.advise(libc::MADV_DONTNEED);
    }

    fn advise(&self, advice: libc::c_int) {
        for &(start, size) in &self.ranges {
            // SAFETY: the range is a private anonymous mapping, and nobody holds references into it.
            let result = unsafe { libc::madvise(self.host(start).cast(), size, advice) };
            assert_eq!(result, 0, "madvise: {}", io::Error::last_os_error());
        }
    }

    /// Whether nobody wrote or read a page of the range since it was discarded. The range is whole pages of
    /// one of the ranges that guest memory is made of.
    pub fn is_untouched(&self, range: Range<u64>) -> bool {
        let length = (range.end - range.start) as usize;
        let mut resident = vec![0u8; length / PAGE as usize];
        let start = self.host(GuestAddress(range.start));
        // SAFETY: the vector has a byte for each page.
        let result = unsafe { libc::mincore(start.cast(), length, resident.as_mut_ptr()) };
        assert_eq!(result, 0, "mincore: {}", io::Error::last_os_error());
        resident.iter().all(|page| page & 1 == 0)
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("the range is in guest memory");
        bytes
    }

    fn host(&self, address: GuestAddress) -> *mut u8 {
        self.memory
            .get_host_address(address)
            .expect("the address is in guest memory")
    }
}
