//! Where the built-in kernel has what it writes while it boots: read from its ELF file and its map of symbols.

use std::collections::HashMap;
use std::ops::Range;

/// Where Linux maps its image (Documentation/arch/x86/x86_64/mm.rst, "kernel text mapping, mapped to physical address 0").
const IMAGE_START: u64 = 0xffff_ffff_8000_0000;
const PAGE: u64 = 4096;
/// In guest-images/kernel/text-order: what follows is patched at boot.
const PATCHED: &str = "# patched";
/// No function is longer. One that is farther from the last one has a section of its own, and is somewhere else.
const FUNCTION_MAX: u64 = 16 << 10;

/// Guest addresses.
pub struct KernelLayout {
    /// Where the first writable segment starts; those before it are mapped from the program's file.
    pub data: u64,
    /// Pages before it that a boot writes all the same: functions that it patches, and data that it protects later.
    pub written: Vec<Range<u64>>,
}

impl KernelLayout {
    pub fn of(vmlinux: &[u8], symbols: &str, text_order: &str) -> Self {
        let symbols: HashMap<&str, u64> = symbols.lines().filter_map(symbol).collect();
        let patched = text_order
            .lines()
            .skip_while(|line| *line != PATCHED)
            .filter_map(|name| symbols.get(name).copied());
        let patched = patched.fold(None, |range: Option<Range<u64>>, address| match range {
            None => Some(address..address + 1),
            Some(range) if (range.end..range.end + FUNCTION_MAX).contains(&address) => {
                Some(range.start..address + 1)
            }
            other => other,
        });
        let symbol = |name| symbols.get(name).copied();
        let protected = symbol("__start_ro_after_init").zip(symbol("__end_ro_after_init"));
        let written = [patched, protected.map(|(start, end)| start..end)]
            .into_iter()
            .flatten();
        let whole_pages = |range: Range<u64>| range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE);
        Self {
            data: first_writable(vmlinux),
            written: written.map(whole_pages).collect(),
        }
    }
}

/// A line of System.map: an address, a letter, a name.
fn symbol(line: &str) -> Option<(&str, u64)> {
    let mut words = line.split(' ');
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    Some((words.nth(1)?, address.checked_sub(IMAGE_START)?))
}

/// The physical address of the first writable PT_LOAD (ELF-64, "Program Header").
fn first_writable(vmlinux: &[u8]) -> u64 {
    const PT_LOAD: u64 = 1;
    const PF_W: u64 = 2;
    let number = |at: u64, size: usize| {
        let at = at as usize;
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&vmlinux[at..at + size]);
        u64::from_le_bytes(bytes)
    };
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let header = |index| headers + index * size;
    (0..count)
        .map(header)
        .find(|at| number(*at, 4) == PT_LOAD && number(at + 4, 4) & PF_W != 0)
        .map(|at| number(at + 24, 8))
        .expect("the built-in kernel has data")
}
