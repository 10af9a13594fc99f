//! The first vCPU's registers at a kernel's entry.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;
use crate::kvm::{Registers, Segment, SpecialRegisters};

/// RFLAGS has one bit that always reads as 1.
const RFLAGS_FIXED: u64 = 1 << 1;
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bits of page table entries: present and writable, and, in a page directory, a 2 MiB page instead of a table.
const PRESENT_WRITABLE: u64 = 0x3;
const LARGE_PAGE: u64 = 0x80;

/// Selectors of the 64-bit boot protocol: `__BOOT_CS` and `__BOOT_DS`.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;
const CODE_TYPE: u8 = 0xb;
const DATA_TYPE: u8 = 0x3;
const TSS_BUSY_TYPE: u8 = 0xb;

/// Sets the registers for the 64-bit entry (Linux x86 boot protocol, "64-bit Boot Protocol"). The processor is in long
/// mode, the first 4 GiB are mapped one to one, and RSI holds the address of the zero page.
pub fn set_linux64(
    memory: &GuestMemoryMmap,
    entry: GuestAddress,
    registers: &mut Registers,
    special: &mut SpecialRegisters,
) -> Result<(), GuestMemoryError> {
    set_segments(memory, special, true)?;
    write_page_tables(memory)?;
    special.cr0 = CR0_PE | CR0_ET | CR0_PG;
    special.cr3 = layout::PAGE_TABLES;
    special.cr4 = CR4_PAE;
    special.efer = EFER_LME | EFER_LMA;
    *registers = Registers {
        rip: entry.0,
        rsi: layout::ZERO_PAGE,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    Ok(())
}

/// Sets the registers for the PVH entry (Xen PVH boot ABI). The processor is in 32-bit protected mode without paging, and
/// EBX holds the address of `hvm_start_info`.
pub fn set_pvh(
    memory: &GuestMemoryMmap,
    entry: GuestAddress,
    registers: &mut Registers,
    special: &mut SpecialRegisters,
) -> Result<(), GuestMemoryError> {
    set_segments(memory, special, false)?;
    special.cr0 = CR0_PE | CR0_ET;
    special.cr4 = 0;
    special.efer = 0;
    *registers = Registers {
        rip: entry.0,
        rbx: layout::START_INFO,
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    Ok(())
}

/// Sets flat segments, and writes a GDT with the same segments.
fn set_segments(
    memory: &GuestMemoryMmap,
    special: &mut SpecialRegisters,
    long_mode: bool,
) -> Result<(), GuestMemoryError> {
    let flat = |selector, type_| Segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        db: 1,
        ..Default::default()
    };
    let code = Segment {
        l: long_mode.into(),
        db: (!long_mode).into(),
        ..flat(CODE_SELECTOR, CODE_TYPE)
    };
    let data = flat(DATA_SELECTOR, DATA_TYPE);
    let tss = Segment {
        limit: 0x67,
        selector: TSS_SELECTOR,
        type_: TSS_BUSY_TYPE,
        present: 1,
        ..Default::default()
    };

    let table = [0, 0, descriptor(&code), descriptor(&data), descriptor(&tss)];
    for (index, entry) in (0..).zip(table) {
        memory.write_obj::<u64>(entry, GuestAddress(layout::GDT + index * 8))?;
    }
    special.gdt.base = layout::GDT;
    special.gdt.limit = (size_of_val(&table) - 1) as u16;
    special.idt.base = 0;
    special.idt.limit = 0;
    special.cs = code;
    for segment in [
        &mut special.ds,
        &mut special.es,
        &mut special.fs,
        &mut special.gs,
        &mut special.ss,
    ] {
        *segment = data;
    }
    special.tr = tss;
    Ok(())
}

/// A segment as its eight bytes in a descriptor table (Intel SDM volume 3, section 3.4.5).
fn descriptor(segment: &Segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let access = u64::from(segment.type_) | u64::from(segment.s) << 4 | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}

/// Maps the first 4 GiB one to one with 2 MiB pages.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    const PAGE: u64 = 0x1000;
    const ENTRIES: u64 = 512;
    const DIRECTORIES: u64 = 4;
    let pointers = layout::PAGE_TABLES + PAGE;
    let directories = pointers + PAGE;
    memory.write_obj(pointers | PRESENT_WRITABLE, GuestAddress(layout::PAGE_TABLES))?;
    for directory in 0..DIRECTORIES {
        memory.write_obj(
            (directories + directory * PAGE) | PRESENT_WRITABLE,
            GuestAddress(pointers + directory * 8),
        )?;
    }
    let mut table = Vec::with_capacity((ENTRIES * DIRECTORIES * 8) as usize);
    for page in 0..ENTRIES * DIRECTORIES {
        table.extend_from_slice(&(page << 21 | LARGE_PAGE | PRESENT_WRITABLE).to_le_bytes());
    }
    memory.write_slice(&table, GuestAddress(directories))
}

#[cfg(test)]
#[path = "registers_test.rs"]
mod tests;
