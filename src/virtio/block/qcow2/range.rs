//! A range of a disk.

use std::io;

/// A range of the disk's bytes. It does not reach past the end of the disk.
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    pub fn new(start: u64, length: u64) -> Self {
        Self {
            start,
            end: start + length,
        }
    }

    pub fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    pub fn advance(&mut self, length: u64) -> io::Result<()> {
        // The library returns 0 only at the end of the image, where no range goes on.
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.start = self.start.saturating_add(length).min(self.end);
        Ok(())
    }
}
