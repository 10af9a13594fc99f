//! The MP table: CPUs and interrupt routing for kernels without ACPI (MultiProcessor Specification 1.4).

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{layout, memory_map::BIOS_DATA_END};

/// The extended BIOS data area, all of it.
const ROOM: usize = (BIOS_DATA_END - layout::MP_TABLE) as usize;

/// Section 4.1, MP Floating Pointer Structure.
const FLOATING_POINTER_SIZE: usize = 16;
/// Section 4.2, MP Configuration Table Header.
const HEADER_SIZE: usize = 44;
/// Section 4.3: a processor entry is 20 bytes, every other one 8.
const PROCESSOR_SIZE: usize = 20;
const ENTRY_SIZE: usize = 8;
/// Both structures: this specification's revision, 1.4.
const SPEC_REV: u8 = 4;

/// Entry types, section 4.3, table 4-3.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Section 4.3.1, CPU flags.
const CPU_ENABLED: u8 = 1 << 0;
const CPU_BOOTSTRAP: u8 = 1 << 1;
/// Section 4.3.1, CPU signature (family 6) and feature flags (FPU, APIC). Kernels read CPUID instead of these.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 1 << 9 | 1 << 0;
/// The values of the version registers of KVM's local APIC and IO-APIC.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
/// Section 4.3.3, IO-APIC flags.
const IO_APIC_ENABLED: u8 = 1 << 0;
const IO_APIC_PINS: u8 = 24;

/// Section 4.3.4: interrupt types (table 4-10), and flags for polarity (PO) and trigger mode (EL).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
const CONFORMS_TO_BUS: u16 = 0;
const ACTIVE_HIGH_EDGE: u16 = 0b01 << 2 | 0b01;
/// Section 4.3.5: the interrupt goes to this input of every local APIC.
const ALL_LOCAL_APICS: u8 = 0xff;
const ISA_BUS_ID: u8 = 0;

/// How many entries there are besides the processors': ISA bus, IO-APIC, its pins, LINT0, LINT1.
const OTHER_ENTRIES: usize = 1 + 1 + IO_APIC_PINS as usize + 2;
/// How many CPUs the extended BIOS data area has room for.
pub const CPU_MAX: usize =
    (ROOM - FLOATING_POINTER_SIZE - HEADER_SIZE - OTHER_ENTRIES * ENTRY_SIZE) / PROCESSOR_SIZE;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("an MP table describes 1 to {CPU_MAX} CPUs, not {0} (ask for another number)")]
    CpuCount(u8),
    #[error(
        "cannot write the MP table at guest address {at:#x}: {0} (guest memory must cover the first MiB)",
        at = layout::MP_TABLE
    )]
    Memory(#[source] GuestMemoryError),
}

/// The IO-APIC's ID, here and in ACPI's MADT: the first one after those of the CPUs' local APICs.
pub(super) fn io_apic_id(cpus: u8) -> u8 {
    cpus
}

/// Writes the MP floating pointer and the configuration table of `cpus` CPUs to [`layout::MP_TABLE`], in the
/// last KiB below 640 KiB, where section 4 lets a kernel look. CPU n has local APIC ID n.
pub fn write(memory: &GuestMemoryMmap, cpus: u8) -> Result<(), Error> {
    if cpus == 0 || usize::from(cpus) > CPU_MAX {
        return Err(Error::CpuCount(cpus));
    }
    let configuration = layout::MP_TABLE as u32 + FLOATING_POINTER_SIZE as u32;
    let mut bytes = floating_pointer(configuration);
    bytes.extend(configuration_table(cpus));
    memory
        .write_slice(&bytes, GuestAddress(layout::MP_TABLE))
        .map_err(Error::Memory)
}

/// Section 4.1.
fn floating_pointer(configuration: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ROOM);
    bytes.extend(b"_MP_");
    bytes.extend(configuration.to_le_bytes());
    bytes.push((FLOATING_POINTER_SIZE / 16) as u8);
    bytes.push(SPEC_REV);
    let checksum_at = bytes.len();
    bytes.push(0);
    // Feature bytes: there is a configuration table, and the mode is virtual wire, without an IMCR.
    bytes.extend([0; 5]);
    set_checksum(&mut bytes, checksum_at);
    bytes
}

/// Sections 4.2 and 4.3; entries are sorted by type.
fn configuration_table(cpus: u8) -> Vec<u8> {
    let entry_count = usize::from(cpus) + OTHER_ENTRIES;
    let length = HEADER_SIZE + usize::from(cpus) * PROCESSOR_SIZE + OTHER_ENTRIES * ENTRY_SIZE;

    let mut bytes = Vec::with_capacity(length);
    bytes.extend(b"PCMP");
    bytes.extend((length as u16).to_le_bytes());
    bytes.push(SPEC_REV);
    let checksum_at = bytes.len();
    bytes.push(0);
    bytes.extend(b"CORACLE ");
    bytes.extend(b"CORACLE     ");
    // OEM table: address and size.
    bytes.extend([0; 4 + 2]);
    bytes.extend((entry_count as u16).to_le_bytes());
    bytes.extend((layout::LOCAL_APIC as u32).to_le_bytes());
    // Extended table: length, checksum, and a reserved byte.
    bytes.extend([0; 2 + 1 + 1]);

    for cpu in 0..cpus {
        bytes.extend(processor(cpu));
    }
    let io_apic_id = io_apic_id(cpus);
    let [i, s, a] = *b"ISA";
    bytes.extend([BUS, ISA_BUS_ID, i, s, a, b' ', b' ', b' ']);
    bytes.extend([IO_APIC, io_apic_id, IO_APIC_VERSION, IO_APIC_ENABLED]);
    bytes.extend((layout::IO_APIC as u32).to_le_bytes());
    for pin in 0..IO_APIC_PINS {
        bytes.extend(interrupt(
            IO_INTERRUPT,
            INT,
            ACTIVE_HIGH_EDGE,
            pin,
            io_apic_id,
            pin,
        ));
    }
    bytes.extend(interrupt(LOCAL_INTERRUPT, EXT_INT, CONFORMS_TO_BUS, 0, 0, 0));
    bytes.extend(interrupt(
        LOCAL_INTERRUPT,
        NMI,
        CONFORMS_TO_BUS,
        0,
        ALL_LOCAL_APICS,
        1,
    ));
    set_checksum(&mut bytes, checksum_at);
    bytes
}

/// Section 4.3.1.
fn processor(cpu: u8) -> [u8; PROCESSOR_SIZE] {
    let flags = if cpu == 0 {
        CPU_ENABLED | CPU_BOOTSTRAP
    } else {
        CPU_ENABLED
    };
    let mut entry = [0; PROCESSOR_SIZE];
    entry[..4].copy_from_slice(&[PROCESSOR, cpu, LOCAL_APIC_VERSION, flags]);
    entry[4..8].copy_from_slice(&CPU_SIGNATURE.to_le_bytes());
    entry[8..12].copy_from_slice(&CPU_FEATURES.to_le_bytes());
    entry
}

/// Sections 4.3.4 and 4.3.5: ISA interrupt `irq` arrives at input `pin` of the APIC `destination`.
fn interrupt(entry: u8, kind: u8, flags: u16, irq: u8, destination: u8, pin: u8) -> [u8; ENTRY_SIZE] {
    let [flags_low, flags_high] = flags.to_le_bytes();
    [
        entry,
        kind,
        flags_low,
        flags_high,
        ISA_BUS_ID,
        irq,
        destination,
        pin,
    ]
}

/// Sets the byte at `at` so that all bytes of the structure add up to zero.
fn set_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[at] = sum.wrapping_neg();
}

#[cfg(test)]
#[path = "mp_table_test.rs"]
mod tests;
