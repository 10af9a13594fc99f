use proptest::prelude::*;

use super::*;

const MEMORY_SIZE: usize = 1 << 20;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)]).unwrap()
}

fn windows(count: usize) -> Vec<VirtioMmioWindow> {
    let nth = |n| VirtioMmioWindow {
        address: layout::VIRTIO_MMIO + u64::from(n) * layout::VIRTIO_MMIO_SIZE,
        size: layout::VIRTIO_MMIO_SIZE,
        irq: layout::VIRTIO_IRQ_FIRST + n,
    };
    (0..count as u32).map(nth).collect()
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn read(memory: &GuestMemoryMmap, address: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// The table at `address`, whole, its checksum proved and its place inside the area.
fn table(memory: &GuestMemoryMmap, address: u64, signature: &[u8; 4]) -> Vec<u8> {
    let length = u32_at(&read(memory, address, 8), 4);
    let bytes = read(memory, address, length as usize);
    assert_eq!(&bytes[..4], signature);
    assert_eq!(sum(&bytes), 0, "checksum");
    assert!(address >= layout::ACPI_TABLES);
    assert!(address + u64::from(length) <= layout::ACPI_TABLES_END);
    bytes
}

struct Written {
    fadt: Vec<u8>,
    madt: Vec<u8>,
    dsdt: Vec<u8>,
}

/// Follows the pointers from the RSDP as a kernel does.
fn written(cpus: u8, virtio: &[VirtioMmioWindow]) -> Written {
    let memory = memory();
    let rsdp_address = write(&memory, cpus, virtio).unwrap().0;
    assert_eq!(rsdp_address % 16, 0);
    let rsdp = read(&memory, rsdp_address, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!(sum(&rsdp[..20]), 0);
    assert_eq!(sum(&rsdp), 0);
    assert_eq!(rsdp[15], 2, "revision");
    let xsdt = table(&memory, u64_at(&rsdp, 24), b"XSDT");
    let entries: Vec<_> = xsdt[36..].chunks(8).map(|entry| u64_at(entry, 0)).collect();
    assert_eq!(entries.len(), 2);
    let fadt = table(&memory, entries[0], b"FACP");
    let madt = table(&memory, entries[1], b"APIC");
    let dsdt = table(&memory, u64_at(&fadt, 140), b"DSDT");
    Written { fadt, madt, dsdt }
}

/// Type and contents of each structure of a MADT.
fn madt_structures(madt: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = &madt[44..];
    let mut structures = Vec::new();
    while let [kind, length, ..] = *rest {
        let (structure, after) = rest.split_at(length.into());
        structures.push((kind, structure));
        rest = after;
    }
    assert!(rest.is_empty());
    structures
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| *window == needle)
        .count()
}

/// A one-byte register in I/O space, as a Generic Address Structure (section 5.2.3.2).
fn port_register(port: u16) -> Vec<u8> {
    [vec![1, 8, 0, 1], u64::from(port).to_le_bytes().to_vec()].concat()
}

#[test]
fn every_machine_gets_tables_whose_sums_and_pointers_are_right() {
    for cpus in 1..=32 {
        for devices in 0..=layout::VIRTIO_DEVICE_MAX {
            written(cpus, &windows(devices));
        }
    }
}

#[test]
fn the_fadt_is_hardware_reduced_and_has_no_legacy_devices() {
    let fadt = written(1, &[]).fadt;
    assert_eq!(fadt.len(), 276);
    let flags = u32_at(&fadt, 112);
    assert_ne!(flags & 1 << 20, 0, "HW_REDUCED_ACPI");
    assert_ne!(flags & 1 << 10, 0, "RESET_REG_SUP");
    assert_eq!(flags & (1 << 4 | 1 << 5), 1 << 4 | 1 << 5, "no fixed buttons");
    // Of the boot architecture flags, 8042 and LEGACY_DEVICES are clear.
    assert_eq!(fadt[109..111], [0b11_1100, 0]);
}

#[test]
fn the_fadt_says_how_to_power_off_and_how_to_reset() {
    let fadt = written(1, &[]).fadt;
    assert_eq!(fadt[116..128], port_register(0x64));
    assert_eq!(fadt[128], 0xfe);
    assert_eq!(fadt[244..256], port_register(layout::SLEEP_CONTROL_PORT));
    assert_eq!(fadt[256..268], port_register(layout::SLEEP_STATUS_PORT));
}

#[test]
fn the_madt_has_each_cpu_enabled_with_the_apic_id_of_its_number() {
    for cpus in 1..=32 {
        let madt = written(cpus, &[]).madt;
        assert_eq!(u64::from(u32_at(&madt, 36)), layout::LOCAL_APIC);
        assert_eq!(u32_at(&madt, 40), 0, "no PC-AT interrupt controllers");
        let structures = madt_structures(&madt);
        let local_apics: Vec<_> = structures.iter().filter(|(kind, _)| *kind == 0).collect();
        assert_eq!(local_apics.len(), usize::from(cpus));
        for (id, (_, structure)) in (0..).zip(local_apics) {
            assert_eq!(*structure, [0, 8, id, id, 1, 0, 0, 0]);
        }
    }
}

#[test]
fn the_madt_has_one_io_apic_from_gsi_0_with_the_mp_tables_id() {
    let madt = written(7, &[]).madt;
    let structures = madt_structures(&madt);
    let io_apics: Vec<_> = structures.iter().filter(|(kind, _)| *kind == 1).collect();
    let [(_, io_apic)] = io_apics[..] else {
        panic!("{io_apics:?}")
    };
    assert_eq!(io_apic[2], io_apic_id(7));
    assert_eq!(u64::from(u32_at(io_apic, 4)), layout::IO_APIC);
    assert_eq!(u32_at(io_apic, 8), 0);
}

#[test]
fn lint1_of_every_cpu_is_nmi() {
    let madt = written(3, &[]).madt;
    let structures = madt_structures(&madt);
    assert_eq!(structures.last(), Some(&(4, [4, 6, 0xff, 0, 0, 1].as_slice())));
}

#[test]
fn the_dsdt_has_a_processor_device_for_each_cpu() {
    for cpus in [1, 2, 32] {
        let dsdt = written(cpus, &[]).dsdt;
        assert_eq!(count(&dsdt, b"ACPI0007\0"), usize::from(cpus));
    }
}

#[test]
fn the_dsdt_has_each_virtio_device_with_its_registers_and_its_interrupt() {
    for devices in 0..=layout::VIRTIO_DEVICE_MAX {
        let windows = windows(devices);
        let dsdt = written(1, &windows).dsdt;
        assert_eq!(count(&dsdt, b"LNRO0005\0"), devices);
        for window in &windows {
            // Section 6.4.3.4, writable 32-bit fixed memory range.
            let mut resources = vec![0x86, 9, 0, 1];
            resources.extend((window.address as u32).to_le_bytes());
            resources.extend((window.size as u32).to_le_bytes());
            // Section 6.4.3.6, extended interrupt: consumer, edge, active high, exclusive; one.
            resources.extend([0x89, 6, 0, 0b0011, 1]);
            resources.extend(window.irq.to_le_bytes());
            assert_eq!(count(&dsdt, &resources), 1);
        }
    }
}

#[test]
fn the_dsdt_has_the_serial_port_at_0x3f8_with_interrupt_4() {
    let dsdt = written(1, &[]).dsdt;
    // Section 6.4.2.5, I/O port descriptor, and section 6.4.3.6, extended interrupt.
    let resources = [0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0];
    assert_eq!(count(&dsdt, &resources), 1);
    // "PNP0501" as a compressed EISA ID.
    assert_eq!(count(&dsdt, &[0x41, 0xd0, 0x05, 0x01]), 1);
}

#[test]
fn the_dsdt_has_a_power_button_that_an_event_device_notifies() {
    let dsdt = written(1, &[]).dsdt;
    // "PNP0C0C" as a compressed EISA ID, and the event device with its interrupt.
    assert_eq!(count(&dsdt, &[0x41, 0xd0, 0x0c, 0x0c]), 1);
    assert_eq!(count(&dsdt, b"ACPI0013\0"), 1);
    let interrupt = [0x89, 6, 0, 0b0011, 1, 3, 0, 0, 0];
    assert_eq!(count(&dsdt, &interrupt), 1);
    // MethodOp, length, _EVT with one argument, serialized; IfOp, length, LEqualOp, Arg0Op, 3; NotifyOp, \_SB_.PWRB, 0x80.
    let event = b"\x14\x19_EVT\x09\xa0\x12\x93\x68\x0a\x03\x86\\\x2e_SB_PWRB\x0a\x80";
    assert_eq!(count(&dsdt, event), 1, "{dsdt:x?}");
}

#[test]
fn power_off_is_sleep_type_5() {
    let dsdt = written(1, &[]).dsdt;
    // NameOp, \_S5_, PackageOp of 4 elements: 5, 0, 0, 0.
    assert_eq!(count(&dsdt, b"\x08\\_S5_\x12\x07\x04\x0a\x05\0\0\0"), 1);
}

#[test]
fn counts_that_the_tables_cannot_describe_are_errors() {
    let memory = memory();
    assert!(matches!(write(&memory, 0, &[]), Err(Error::CpuCount(0))));
    assert!(matches!(write(&memory, 255, &[]), Err(Error::CpuCount(255))));
    write(&memory, 254, &windows(layout::VIRTIO_DEVICE_MAX)).unwrap();
}

#[test]
fn memory_without_the_area_is_an_error() {
    let small = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0xa_0000)]).unwrap();
    assert!(matches!(write(&small, 1, &[]), Err(Error::Memory { .. })));
}

#[test]
fn a_table_that_would_pass_the_areas_end_is_an_error() {
    let memory = memory();
    let mut area = Area {
        memory: &memory,
        next: layout::ACPI_TABLES_END - 16,
    };
    assert!(matches!(area.place(&Rsdp::new(OEM_ID, 0)), Err(Error::TooLarge { end }) if end == 0x10_0014));
}

proptest! {
    #[test]
    fn a_window_is_either_described_whole_or_refused(
        address in prop_oneof![any::<u64>(), 0xffff_0000..0x1_0001_0000u64],
        size in prop_oneof![any::<u64>(), 0..0x2_0000u64],
        irq: u32,
    ) {
        let window = VirtioMmioWindow { address, size, irq };
        let below_4g = address.checked_add(size).is_some_and(|end| end <= u64::from(u32::MAX));
        match write(&memory(), 1, &[window]) {
            Ok(_) => prop_assert!(below_4g),
            Err(error) => {
                let refused = matches!(error, Error::WindowAbove4G { .. });
                prop_assert!(refused && !below_4g);
            }
        }
    }
}
