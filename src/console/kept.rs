//! Memory that a child shares with the parent that keeps its terminal.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering};

/// More than undoing everything takes that a guest can change.
const ROOM: usize = 2000;

#[repr(C)]
pub struct Kept {
    /// Whether the child takes signals from the pipe. If not, they act on it as on any process.
    takes_orders: AtomicBool,
    /// How often the child has taken each signal that was sent to it.
    counts: [AtomicU64; 65],
    /// Which of the two texts holds.
    current: AtomicUsize,
    undo: [Text; 2],
}

#[repr(C)]
struct Text {
    length: AtomicU16,
    bytes: [AtomicU8; ROOM],
}

impl Kept {
    pub fn shared() -> io::Result<&'static Self> {
        // SAFETY: the mapping is new. The kernel has filled it with zeroes, and for a Kept every byte may be zero. It is never
        // unmapped.
        unsafe {
            let page = libc::mmap(
                ptr::null_mut(),
                size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            match page {
                libc::MAP_FAILED => Err(io::Error::last_os_error()),
                page => Ok(&*page.cast()),
            }
        }
    }

    pub fn takes_orders(&self) -> bool {
        self.takes_orders.load(Ordering::SeqCst)
    }

    pub fn set_takes_orders(&self, so: bool) {
        self.takes_orders.store(so, Ordering::SeqCst);
    }

    /// How often the child has taken this signal without its being passed on.
    pub fn count(&self, signal: i32) -> u64 {
        let count = self.counts.get(signal as usize);
        count.map_or(0, |count| count.load(Ordering::SeqCst))
    }

    pub fn set_count(&self, signal: i32, often: u64) {
        if let Some(count) = self.counts.get(signal as usize) {
            count.store(often, Ordering::SeqCst);
        }
    }

    /// The bytes that undo what the guest has changed in the terminal. The other process may have been taken over, so nothing
    /// in the memory is trusted.
    pub fn undo(&self) -> Vec<u8> {
        let text = &self.undo[self.current.load(Ordering::Acquire) % 2];
        let length = usize::from(text.length.load(Ordering::Relaxed)).min(ROOM);
        let bytes = &text.bytes[..length];
        bytes.iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    /// Keeps these bytes. What was there before holds until they are whole. To be called by one thread.
    pub fn set_undo(&self, bytes: &[u8]) {
        let next = (self.current.load(Ordering::Relaxed) % 2) ^ 1;
        let text = &self.undo[next];
        // A part of a sequence would be shown as text.
        let bytes = if bytes.len() <= ROOM { bytes } else { &[] };
        for (place, &byte) in text.bytes.iter().zip(bytes) {
            place.store(byte, Ordering::Relaxed);
        }
        text.length.store(bytes.len() as u16, Ordering::Relaxed);
        self.current.store(next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_text_holds() {
        let kept = Kept::shared().unwrap();
        assert_eq!(kept.undo(), b"");
        kept.set_undo(b"\x1b[?25h");
        assert_eq!(kept.undo(), b"\x1b[?25h");
        kept.set_undo(b"");
        assert_eq!(kept.undo(), b"");
        kept.set_undo(&[b'x'; ROOM]);
        assert_eq!(kept.undo().len(), ROOM);
        kept.set_undo(&[b'x'; ROOM + 1]);
        assert_eq!(kept.undo(), b"");
    }

    #[test]
    fn what_another_process_writes_makes_nothing_be_read_outside_of_the_memory() {
        let kept = Kept::shared().unwrap();
        kept.current.store(usize::MAX, Ordering::Relaxed);
        kept.undo[1].length.store(u16::MAX, Ordering::Relaxed);
        assert_eq!(kept.undo().len(), ROOM);
        kept.set_undo(b"x");
        assert_eq!(kept.undo(), b"x");
    }
}
