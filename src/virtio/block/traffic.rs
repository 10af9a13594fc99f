//! How much a guest has read from a disk and written to it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::request::{Operation, Request};

/// Counts of bytes, of requests that were begun.
#[derive(Debug, Default)]
pub struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    #[inline]
    pub(super) fn count(&self, request: &Request) {
        let counter = match request.operation {
            Operation::Read => &self.read,
            Operation::Write => &self.written,
            Operation::Flush | Operation::Identify | Operation::Discard | Operation::WriteZeroes { .. } => {
                return;
            }
        };
        counter.fetch_add(request.length, Ordering::Relaxed);
    }

    /// Bytes read.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}
