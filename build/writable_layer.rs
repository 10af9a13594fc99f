//! The blocks of a new writable layer, as guest-images/writable-layer/pack wrote them, whose head describes the file.

use std::ops::Range;

const BLOCK: u64 = 4096;

pub struct WritableLayer {
    /// Of the disk, in bytes.
    pub length: u64,
    /// Where on the disk each run of blocks starts, and which bytes of the file it is; in the order of both.
    pub runs: Vec<(u64, Range<usize>)>,
}

impl WritableLayer {
    /// Panics, so that the build fails, if a run is empty, overlaps another, or reaches beyond the disk or the file, or if the
    /// file has bytes that no run has.
    pub fn of(file: &[u8]) -> Self {
        let mut numbers = file[..BLOCK as usize]
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes));
        let mut next = || numbers.next().expect("the header has room for all runs");
        let (length, count) = (next(), next());
        let (mut disk_end, mut file_end) = (0, BLOCK);
        let mut run = || {
            let start = next() * BLOCK;
            let size = next() * BLOCK;
            assert!(
                size > 0 && start >= disk_end && start + size <= length,
                "a run is out of place"
            );
            let bytes = file_end as usize..(file_end + size) as usize;
            (disk_end, file_end) = (start + size, file_end + size);
            (start, bytes)
        };
        let runs: Vec<_> = (0..count).map(|_| run()).collect();
        assert!(
            !runs.is_empty() && file_end == file.len() as u64,
            "the file is not as long as its runs"
        );
        Self { length, runs }
    }
}
