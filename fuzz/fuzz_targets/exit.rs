//! Any bytes as the page in which KVM says why a guest stopped: what is decoded of it lies in the page's data and nowhere
//! else. (KVM is trusted; what this finds are mistakes of ours, which a guest could reach.)
#![no_main]

use std::sync::LazyLock;

use coracle::kvm::{Exit, decode_exit};
use coracle_fuzz::MemoryFile;
use kvm_bindings::kvm_run;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// As KVM has it on x86: the struct, port data, and coalesced MMIO.
const SIZE: usize = 3 * 4096;
/// An instruction's longest, by KVM and by the processor.
const LONGEST_INSTRUCTION: usize = 15;

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    reason: u8,
    /// Of the union, which begins here in `kvm_run`.
    details: [u8; 64],
    data: &'a [u8],
}

fuzz_target!(|input: Input| {
    let mut page = vec![0; SIZE];
    let reason = std::mem::offset_of!(kvm_run, exit_reason);
    let details = std::mem::offset_of!(kvm_run, __bindgen_anon_1);
    page[reason..reason + 4].copy_from_slice(&u32::from(input.reason % 40).to_le_bytes());
    page[details..details + 64].copy_from_slice(&input.details);
    let length = input.data.len().min(SIZE - 4096);
    page[4096..4096 + length].copy_from_slice(&input.data[..length]);
    FILE.replace(&page);

    let mut written = 0..0;
    decode_exit(FILE.file(), SIZE, |exit| match exit {
        Exit::PortRead { size, data, .. } => {
            assert!(size > 0 && data.len() <= SIZE);
            data.fill(0xa5);
            written = size_of::<kvm_run>()..SIZE;
        }
        Exit::PortWrite { size, data, .. } => {
            assert!(size > 0 && data.len() <= SIZE - size_of::<kvm_run>());
            // Reads them all.
            assert!(data.iter().map(|byte| u64::from(*byte)).sum::<u64>() <= 255 * SIZE as u64);
        }
        Exit::MmioRead { data, .. } => {
            assert!(data.len() <= 8);
            data.fill(0xa5);
            written = details..details + 64;
        }
        Exit::MmioWrite { data, .. } => assert!(data.len() <= 8),
        Exit::InternalError { instruction, .. } => assert!(instruction.len() <= LONGEST_INSTRUCTION),
        _ => (),
    });
    let after = FILE.contents();
    assert_eq!(after.len(), SIZE);
    let same = |range: std::ops::Range<usize>| after[range.clone()] == page[range];
    assert!(
        same(0..written.start) && same(written.end..SIZE),
        "an answer changed more than its data"
    );
});
