//! Any file given as a kernel: it is loaded into guest memory above 1 MiB, or refused in words.
#![no_main]

use std::sync::LazyLock;

use coracle::boot::{self, Image};
use coracle::x86::layout::{HIGH_MEMORY, MEMORY_ABOVE_4G};
use coracle_fuzz::{Guest, MemoryFile};
use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// Small, since a kernel may unpack to the size of all of it.
const LOW: usize = 4 << 20;
const HIGH: usize = 1 << 20;

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);
static GUEST: LazyLock<Guest> = LazyLock::new(|| Guest::new(&[(0, LOW), (MEMORY_ABOVE_4G, HIGH)]));

fuzz_target!(|bytes: &[u8]| {
    FILE.replace(bytes);
    GUEST.discard();
    let image = match Image::open(&FILE.path()) {
        Ok(image) => image,
        Err(error) => {
            assert!(bytes.is_empty(), "{error}");
            return;
        }
    };
    let memory = &GUEST.memory;
    match boot::load_kernel(&image, memory, Some(0x5eed_0000_0000_0007)) {
        Ok(kernel) => {
            let (entry, end) = (kernel.entry.0, kernel.end.0);
            assert!((HIGH_MEMORY..end).contains(&entry), "{kernel:x?}");
            assert!(memory.address_in_range(kernel.entry), "{kernel:x?}");
            assert!(memory.address_in_range(GuestAddress(end - 1)), "{kernel:x?}");
        }
        Err(error) => assert!(!error.problem.to_string().is_empty()),
    }
    assert!(
        GUEST.is_untouched(0..HIGH_MEMORY),
        "memory below 1 MiB was written"
    );
});
