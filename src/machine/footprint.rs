//! How much of the host's memory a machine's process has, for its guest and beside it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The process's mappings with what it has of each (proc(5)).
const MAPPINGS: &str = "/proc/self/smaps";
/// More than the kernel ever says of a few hundred mappings.
const LONGEST: u64 = 4 << 20;

/// Bytes of the host's memory.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// What the guest has touched, and what was put there for it. Pages that guests share, such as those of the built-in
    /// kernel, are in it.
    pub guest: u64,
    /// What the process has changed for itself.
    pub beside: u64,
}

/// What the host's kernel says of this process's mappings, for all boots of its guest.
#[derive(Debug, Clone)]
pub struct Mappings(Arc<File>);

impl Mappings {
    /// To be called before the process is confined: after it nobody can open this, not even the process itself.
    pub fn open() -> io::Result<Self> {
        File::open(MAPPINGS).map(|file| Self(Arc::new(file)))
    }

    /// Measures one boot's machine. `guest` are the addresses of its guest memory in this process, each a mapping of its own.
    pub fn meter(&self, guest: Vec<Range<u64>>) -> Meter {
        Meter {
            mappings: self.clone(),
            guest,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Meter {
    mappings: Mappings,
    guest: Vec<Range<u64>>,
}

impl Meter {
    /// Takes 40 ms for each GiB of guest memory in small pages.
    pub fn read(&self) -> io::Result<Footprint> {
        let mut text = Vec::new();
        let mut piece = [0; 16 << 10];
        while (text.len() as u64) < LONGEST {
            match self.mappings.0.read_at(&mut piece, text.len() as u64)? {
                0 => break,
                count => text.extend(&piece[..count]),
            }
        }
        if text.is_empty() || text.len() as u64 >= LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(footprint(&String::from_utf8_lossy(&text), &self.guest))
    }
}

/// Adds up what `/proc/PID/smaps` says.
fn footprint(mappings: &str, guest: &[Range<u64>]) -> Footprint {
    let mut sum = Footprint::default();
    let mut is_guests = false;
    for line in mappings.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let kibibytes = || -> u64 {
            let number = rest.trim().strip_suffix(" kB");
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        match first {
            "Rss:" if is_guests => sum.guest += kibibytes() << 10,
            "Anonymous:" if !is_guests => sum.beside += kibibytes() << 10,
            _ => {
                let start = first
                    .split_once('-')
                    .map(|(start, _)| u64::from_str_radix(start, 16));
                if let Some(Ok(start)) = start {
                    is_guests = guest.iter().any(|range| range.contains(&start));
                }
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::slice;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::machine::memory::Memory;

    #[test]
    fn what_is_in_guest_memory_is_told_from_what_is_beside_it() {
        let text = "\
5570000-5580000 r-xp 00000000 fe:01 123456                     /usr/bin/coracle
Size:                 64 kB
Rss:                  48 kB
Anonymous:             4 kB
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
Rss:                 512 kB
Anonymous:           512 kB
7f0000200000-7f0000300000 rw-p 00a00000 fe:01 123456           /usr/bin/coracle
Rss:                 300 kB
Anonymous:            20 kB
7f0000400000-7f0000500000 rw-p 00000000 00:00 0                          [heap]
Rss:                  40 kB
Anonymous:            36 kB
VmFlags: rd wr mr mw me ac
";
        let guest = 0x7f00_0000_0000..0x7f00_0030_0000;
        let expected = Footprint {
            guest: 812 << 10,
            beside: 40 << 10,
        };
        assert_eq!(footprint(text, slice::from_ref(&guest)), expected);
        assert_eq!(footprint("", slice::from_ref(&guest)), Footprint::default());
        assert_eq!(
            footprint("Rss: much kB\n-\nAnonymous: 1", &[]),
            Footprint::default()
        );
    }

    #[test]
    fn what_is_written_to_guest_memory_is_counted_there() {
        const WRITTEN: u64 = 8 << 20;
        let memory = Memory::allocate(2 * WRITTEN, Some(0..2 * WRITTEN)).unwrap();
        let meter = Mappings::open().unwrap().meter(memory.addresses());
        let before = meter.read().unwrap();
        assert!(before.guest < WRITTEN && before.beside > 0, "{before:?}");
        memory
            .guest()
            .write_slice(&[1; WRITTEN as usize], GuestAddress(0))
            .unwrap();
        let after = meter.read().unwrap();
        assert_eq!(after.guest, before.guest + WRITTEN);
    }
}
