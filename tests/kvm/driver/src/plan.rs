//! What the guest does to its disks. The guest does it, and the host works out what must come of it.

use core::ops::Range;

pub const SECTOR: usize = 512;
/// Of every disk: no power of two, and no whole number of pages.
pub const SECTORS: u64 = 4099;

/// Read first, as the host filled them; the longest is 128 KiB.
pub const READ: [Range<u64>; 6] = [
    0..1,
    SECTORS - 1..SECTORS,
    1..9,
    2..5,
    1023..1279,
    SECTORS - 7..SECTORS,
];
/// Written one after the other, each over what was there before.
pub const WRITTEN: [Range<u64>; 7] = [
    0..1,
    SECTORS - 1..SECTORS,
    16..24,
    20..22,
    1001..1004,
    2000..2256,
    SECTORS - 3..SECTORS - 1,
];
/// Not all of it is on the disk.
pub const PAST_THE_END: [Range<u64>; 4] = [
    SECTORS..SECTORS + 1,
    SECTORS - 1..SECTORS + 1,
    SECTORS - 1..SECTORS + 127,
    1 << 40..(1 << 40) + 1,
];

/// Requests that are in flight at once: as many as the driver's queue holds.
pub const IN_FLIGHT: usize = 16;
/// Sectors of each of them.
pub const IN_FLIGHT_SECTORS: u64 = 3;

/// The sectors of one of the requests in flight: apart from each other, and not in order.
pub fn in_flight(slot: usize) -> Range<u64> {
    let start = 3000 + (slot as u64 * 5) % IN_FLIGHT as u64 * 4;
    start..start + IN_FLIGHT_SECTORS
}

/// Requests for random bytes.
pub const ENTROPY: [usize; 4] = [16, 64, 64, 4096];

/// What writing number `write` puts into a disk from `sector` on.
pub fn fill(data: &mut [u8], write: u64, sector: u64) {
    for (index, word) in data.chunks_mut(8).enumerate() {
        let place = sector * (SECTOR as u64 / 8) + index as u64;
        word.copy_from_slice(&mix(place << 8 | write).to_le_bytes()[..word.len()]);
    }
}

/// The finalizer of MurmurHash3, which changes half of the bits for each that is changed.
fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

/// FNV-1a.
pub fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
