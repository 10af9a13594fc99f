//! Random numbers of the host's kernel.

use std::slice;

/// A number that nobody else has. Soon after the host's own start this waits until its kernel has random numbers.
pub fn random() -> u64 {
    let mut number = 0u64;
    // SAFETY: the call writes the bytes of the number. So few come whole or, on a host without the call, not at all.
    unsafe {
        let bytes = slice::from_raw_parts_mut((&raw mut number).cast::<u8>(), size_of::<u64>());
        libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0);
    }
    number
}
