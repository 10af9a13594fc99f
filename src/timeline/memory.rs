//! How much memory this process uses: the guest's part, and Coracle's own.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use serde::Serialize;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

/// The mappings of this process. The text is made when it is read.
pub const SMAPS: &str = "/proc/self/smaps";

/// Memory that a process uses, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// Guest memory that the host holds in its own memory.
    #[serde(rename = "guest_bytes")]
    pub guest: u64,
    /// The part of `guest` that belongs to this guest alone. The rest are pages of files, which guests can share.
    #[serde(rename = "guest_private_bytes")]
    pub guest_private: u64,
    /// Private memory of the process outside of guest memory.
    #[serde(rename = "coracle_private_bytes")]
    pub coracle_private: u64,
}

impl MemoryUse {
    /// Reads how much memory this process uses from `smaps`, an open /proc/self/smaps. `guest` is where its guest memory is
    /// mapped.
    fn read(smaps: File, guest: &[Range<u64>]) -> io::Result<Self> {
        // Line by line, because a buffer for the whole text would count as memory that Coracle uses.
        Self::parse(BufReader::new(smaps), guest)
    }

    /// Adds up the mappings in `smaps`, a text in the form of `/proc/PID/smaps` (proc(5)).
    fn parse(smaps: impl BufRead, guest: &[Range<u64>]) -> io::Result<Self> {
        let mut memory = Self::default();
        let mut is_guest = false;
        for line in smaps.lines() {
            let line = line?;
            let mut words = line.split_ascii_whitespace();
            let Some(first) = words.next() else { continue };
            let number = words.next().and_then(|word| word.parse::<u64>().ok());
            let bytes = number.unwrap_or(0) << 10;
            match first {
                "Rss:" if is_guest => memory.guest += bytes,
                "Anonymous:" if is_guest => memory.guest_private += bytes,
                "Anonymous:" => memory.coracle_private += bytes,
                _ => {
                    if let Some(start) = first
                        .split_once('-')
                        .and_then(|(start, _)| u64::from_str_radix(start, 16).ok())
                    {
                        is_guest = guest.iter().any(|range| range.contains(&start));
                    }
                }
            }
        }
        Ok(memory)
    }
}

/// Where this memory is mapped.
pub fn ranges(memory: &GuestMemoryMmap) -> Vec<Range<u64>> {
    let range = |region: &GuestRegionMmap| {
        let start = region.as_ptr() as u64;
        start..start + region.len()
    };
    memory.iter().map(range).collect()
}

/// A thread that reads the use of memory once, while the guest runs: after the workload's first output, or at the end of the
/// run if there was no such output.
pub struct MemoryReader {
    /// Dropping the sender makes the thread read.
    wait: Option<Sender<()>>,
    thread: JoinHandle<Option<MemoryUse>>,
}

impl MemoryReader {
    /// `smaps` is an open /proc/self/smaps. `guest` is where its guest memory is mapped.
    pub fn start(smaps: File, guest: Vec<Range<u64>>) -> Option<Self> {
        let (wait, ready): (Sender<()>, Receiver<()>) = channel();
        let read = move || {
            // Nothing is ever sent: this returns with an error when the sender is dropped.
            let _ = ready.recv();
            MemoryUse::read(smaps, &guest)
                .inspect_err(|error| log::debug!("cannot read /proc/self/smaps: {error}"))
                .ok()
        };
        let thread = thread::Builder::new().name("timings".into()).spawn(read).ok()?;
        Some(Self {
            wait: Some(wait),
            thread,
        })
    }

    pub fn read_now(&mut self) {
        self.wait = None;
    }

    pub fn finish(mut self) -> Option<MemoryUse> {
        self.read_now();
        self.thread.join().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_inside_of_guest_memory_are_the_guests() {
        let smaps = "\
00400000-00500000 r-xp 00000000 fe:00 12 /coracle\nRss: 100 kB\nAnonymous: 0 kB\nVmFlags: rd ex\n\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0\nRss: 40 kB\nAnonymous: 40 kB\n\
7f0000200000-7f0008000000 rw-p 00001000 fe:00 12 /coracle\nRss: 60 kB\nAnonymous: 8 kB\n\
7f0008000000-7f0008001000 rw-p 00000000 00:00 0\nRss: 4 kB\nAnonymous: 4 kB\n";
        let guest = 0x7f00_0000_0000..0x7f00_0800_0000;
        let memory = MemoryUse::parse(smaps.as_bytes(), std::slice::from_ref(&guest)).unwrap();
        let expected = MemoryUse {
            guest: 100 << 10,
            guest_private: 48 << 10,
            coracle_private: 4 << 10,
        };
        assert_eq!(memory, expected);
    }

    #[test]
    fn what_a_process_writes_is_its_private_memory() {
        const SIZE: usize = 8 << 20;
        let bytes = vec![1u8; SIZE];
        let start = bytes.as_ptr() as u64;
        let memory = MemoryUse::read(File::open(SMAPS).unwrap(), &[]).unwrap();
        assert!(memory.coracle_private >= SIZE as u64, "{memory:?} at {start:#x}");
    }
}
