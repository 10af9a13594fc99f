//! Runs in a guest and tells what its processors say of themselves, as CPUID and XGETBV answer programs.
//!
//! It prints a line for each vCPU and each leaf that tells of the processor's kind, its topology or its save area, all
//! numbers in hexadecimal:
//!
//!     cpu CPU leaf LEAF SUBLEAF EAX EBX ECX EDX
//!
//! and then `xcr0 VALUE`, or `no xsave` where programs cannot use XSAVE.

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::fmt::Write;
use std::process::ExitCode;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Leaves with one answer.
const PLAIN: [u32; 6] = [0, 1, 0x8000_0000, 0x8000_0001, 0x8000_0008, 0x8000_001e];
/// Leaves that are lists of caches, of levels, or of states that XSAVE saves.
const LISTS: [u32; 4] = [0x4, 0xb, 0x1f, 0x8000_001d];
const XSAVE: u32 = 0xd;
/// Longer than any list.
const LONGEST: u32 = 8;

/// Leaf 1 ECX: the kernel lets programs use XSAVE.
const OSXSAVE: u32 = 1 << 27;

fn main() -> ExitCode {
    match tell() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("processor: {why}");
            ExitCode::FAILURE
        }
    }
}

fn tell() -> nix::Result<String> {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this)?;
    let mut text = String::new();
    for cpu in 0..CpuSet::count() {
        if !all.is_set(cpu)? {
            continue;
        }
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(this, &only)?;
        tell_leaves(cpu, &mut text);
    }
    let features = __cpuid(1).ecx;
    if features & OSXSAVE == 0 {
        text.push_str("no xsave\n");
    } else {
        // SAFETY: the processor has XGETBV, and the kernel lets programs use it.
        let states = unsafe { _xgetbv(0) };
        let _ = writeln!(text, "xcr0 {states:x}");
    }
    Ok(text)
}

/// The leaves of the processor that this thread runs on. Those above the highest are not asked for: processors by Intel
/// answer with another leaf.
fn tell_leaves(cpu: usize, text: &mut String) {
    let exists = |leaf: &u32| *leaf <= __cpuid(leaf & 0x8000_0000).eax;
    for leaf in PLAIN.into_iter().filter(exists) {
        tell_leaf(cpu, leaf, 0, text);
    }
    for leaf in LISTS.into_iter().filter(exists) {
        for subleaf in 0..LONGEST {
            let is_end = tell_leaf(cpu, leaf, subleaf, text);
            if is_end {
                break;
            }
        }
    }
    if exists(&XSAVE) {
        tell_leaf(cpu, XSAVE, 0, text);
        tell_leaf(cpu, XSAVE, 1, text);
    }
}

/// Whether the subleaf would be the end of a list: no cache in EAX, and no level's processors in EBX.
fn tell_leaf(cpu: usize, leaf: u32, subleaf: u32, text: &mut String) -> bool {
    let told = __cpuid_count(leaf, subleaf);
    let _ = writeln!(
        text,
        "cpu {cpu:x} leaf {leaf:x} {subleaf:x} {:x} {:x} {:x} {:x}",
        told.eax, told.ebx, told.ecx, told.edx
    );
    match leaf {
        0xb | 0x1f => told.ebx == 0,
        _ => told.eax & 0x1f == 0,
    }
}
