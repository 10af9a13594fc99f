//! KVM's own counters of a vCPU (KVM API, `KVM_GET_STATS_FD`, since Linux 5.14).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

/// `struct kvm_stats_header`: flags, name_size, num_desc, id_offset, desc_offset, data_offset.
const HEADER: usize = 6 * 4;
/// `struct kvm_stats_desc`: flags, exponent and size, offset, bucket_size; the name follows.
const DESCRIPTOR: usize = 4 * 4;
/// A limit far above what any KVM has, so that a wrong header cannot make this allocate much memory.
const DESCRIPTORS_MAX: usize = 4096;
const NAME_MAX: usize = 256;
/// `KVM_STATS_TYPE_*` in a descriptor's flags.
const TYPE_MASK: u32 = 0xf;
const TYPE_CUMULATIVE: u32 = 0;

/// The counters of one vCPU, readable while it runs.
pub struct Statistics {
    file: File,
    /// The name of each counter, and the offset of its value in the file.
    counters: Vec<(String, u64)>,
    exits: Option<u64>,
}

impl Statistics {
    /// To be called before the vCPU runs: KVM makes this call wait as long as the vCPU is in the guest.
    pub(super) fn of(vcpu: &impl AsRawFd) -> io::Result<Self> {
        // SAFETY: the request takes no argument. It returns a new descriptor, which nothing else owns.
        let file = unsafe {
            match ioctl(vcpu, KVM_GET_STATS_FD()) {
                fd @ 0.. => File::from_raw_fd(fd),
                _ => return Err(io::Error::last_os_error()),
            }
        };
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let [_, name_size, count, _, descriptors, data] = words(&header);
        let (name_size, count) = (name_size as usize, count as usize);
        if name_size > NAME_MAX || count > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let size = DESCRIPTOR + name_size;
        let mut bytes = vec![0; count * size];
        file.read_exact_at(&mut bytes, descriptors.into())?;
        let counters: Vec<_> = bytes
            .chunks_exact(size)
            .filter_map(|descriptor| counter(descriptor, data))
            .collect();
        let exits = counters.iter().find(|(name, _)| name == "exits");
        Ok(Self {
            exits: exits.map(|(_, offset)| *offset),
            counters,
            file,
        })
    }

    /// How many times the processor left the guest, including the exits that KVM handled itself.
    pub fn exits(&self) -> Option<u64> {
        self.read(self.exits?)
    }

    /// All counters by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counters
            .iter()
            .filter_map(|(name, offset)| Some((name.as_str(), self.read(*offset)?)))
    }

    fn read(&self, offset: u64) -> Option<u64> {
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, offset).ok()?;
        Some(u64::from_ne_bytes(value))
    }
}

/// The counter of a descriptor. None if it is not a single number that only grows.
fn counter(descriptor: &[u8], data: u32) -> Option<(String, u64)> {
    let (numbers, name) = descriptor.split_at_checked(DESCRIPTOR)?;
    let [flags, exponent_and_size, offset, _] = words(numbers);
    let size = exponent_and_size >> 16;
    let end = name.iter().position(|&byte| byte == 0)?;
    let name = String::from_utf8(name[..end].to_vec()).ok()?;
    (flags & TYPE_MASK == TYPE_CUMULATIVE && size == 1).then(|| (name, u64::from(data) + u64::from(offset)))
}

/// The first `WORDS` numbers in `bytes`. Numbers past the end of `bytes` are 0.
fn words<const WORDS: usize>(bytes: &[u8]) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(flags: u32, size: u16, offset: u32, name: &[u8]) -> Vec<u8> {
        let exponent_and_size = u32::from(size) << 16;
        let numbers = [flags, exponent_and_size, offset, 0].map(u32::to_ne_bytes);
        [numbers.as_flattened(), name].concat()
    }

    #[test]
    fn only_single_numbers_that_grow_are_counters() {
        let exits = descriptor(0, 1, 16, b"exits\0\0\0");
        assert_eq!(counter(&exits, 1000), Some(("exits".into(), 1016)));
        assert_eq!(counter(&descriptor(1, 1, 16, b"guest_mode\0"), 1000), None);
        assert_eq!(counter(&descriptor(4, 32, 16, b"halt_poll_hist\0"), 1000), None);
        assert_eq!(counter(&descriptor(0, 1, 16, b"no end"), 1000), None);
        assert_eq!(counter(&exits[..10], 1000), None);
    }
}
