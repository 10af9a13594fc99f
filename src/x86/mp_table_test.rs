use super::*;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The last KiB below 640 KiB, after the tables of `cpus` CPUs were written.
fn written(cpus: u8) -> Vec<u8> {
    let memory = memory();
    write(&memory, cpus).unwrap();
    let mut bytes = vec![0; ROOM];
    memory
        .read_slice(&mut bytes, GuestAddress(layout::MP_TABLE))
        .unwrap();
    bytes
}

/// Header and entries of the configuration table that the floating pointer points to.
fn parsed(bytes: &[u8]) -> (&[u8], Vec<&[u8]>) {
    assert_eq!(&bytes[..4], b"_MP_");
    assert_eq!(sum(&bytes[..FLOATING_POINTER_SIZE]), 0);
    let at = (u64::from(u32_at(bytes, 4)) - layout::MP_TABLE) as usize;
    let length = usize::from(u16_at(bytes, at + 4));
    let table = &bytes[at..at + length];
    assert_eq!(&table[..4], b"PCMP");
    assert_eq!(sum(table), 0);
    let (header, mut rest) = table.split_at(HEADER_SIZE);
    let mut entries = Vec::new();
    while let Some(kind) = rest.first() {
        let size = if *kind == PROCESSOR {
            PROCESSOR_SIZE
        } else {
            ENTRY_SIZE
        };
        let (entry, after) = rest.split_at(size);
        entries.push(entry);
        rest = after;
    }
    (header, entries)
}

#[test]
fn every_count_of_cpus_gives_a_table_that_adds_up() {
    for cpus in 1..=32 {
        let bytes = written(cpus);
        let (header, entries) = parsed(&bytes);
        assert_eq!(usize::from(u16_at(header, 34)), entries.len());
        assert_eq!(u64::from(u32_at(header, 36)), layout::LOCAL_APIC);
        assert!(
            entries.is_sorted_by_key(|entry| entry[0]),
            "entries are sorted by type"
        );
        let cpu_entries: Vec<_> = entries.iter().filter(|entry| entry[0] == PROCESSOR).collect();
        assert_eq!(cpu_entries.len(), usize::from(cpus));
        for (id, entry) in cpu_entries.iter().enumerate() {
            assert_eq!(usize::from(entry[1]), id);
            assert_eq!(
                entry[3],
                if id == 0 { 0b11 } else { 0b01 },
                "only CPU 0 boots the others"
            );
        }
    }
}

#[test]
fn the_io_apic_has_an_id_that_no_cpu_has() {
    for cpus in 1..=32 {
        let bytes = written(cpus);
        let (_, entries) = parsed(&bytes);
        let io_apic = entries.iter().find(|entry| entry[0] == IO_APIC).unwrap();
        assert!(
            entries
                .iter()
                .all(|entry| entry[0] != PROCESSOR || entry[1] != io_apic[1])
        );
        assert_eq!(io_apic[3], IO_APIC_ENABLED);
        assert_eq!(u64::from(u32_at(io_apic, 4)), layout::IO_APIC);
    }
}

#[test]
fn each_pin_of_the_io_apic_gets_the_isa_interrupt_of_its_number() {
    let bytes = written(2);
    let (_, entries) = parsed(&bytes);
    let bus = entries.iter().find(|entry| entry[0] == BUS).unwrap();
    assert_eq!(bus, &[BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let pins: Vec<_> = entries.iter().filter(|entry| entry[0] == IO_INTERRUPT).collect();
    assert_eq!(pins.len(), 24);
    for (pin, entry) in (0..).zip(pins) {
        assert_eq!(*entry, [IO_INTERRUPT, INT, 0b0101, 0, 0, pin, 2, pin]);
    }
}

#[test]
fn lint0_is_extint_of_the_first_cpu_and_lint1_is_nmi_of_all() {
    let bytes = written(4);
    let (_, entries) = parsed(&bytes);
    let local: Vec<_> = entries
        .into_iter()
        .filter(|entry| entry[0] == LOCAL_INTERRUPT)
        .collect();
    assert_eq!(local, [[4, 3, 0, 0, 0, 0, 0, 0], [4, 1, 0, 0, 0, 0, 0xff, 1]]);
}

#[test]
fn the_most_cpus_fit_below_640_kib_and_one_more_is_an_error() {
    const { assert!(CPU_MAX >= 32) };
    let most = CPU_MAX as u8;
    parsed(&written(most));
    let error = write(&memory(), most + 1).unwrap_err();
    assert!(matches!(error, Error::CpuCount(cpus) if cpus == most + 1));
    assert!(matches!(write(&memory(), 0), Err(Error::CpuCount(0))));
}

#[test]
fn nothing_past_640_kib_is_touched() {
    let memory = memory();
    memory.write_slice(&[0xa5; 16], GuestAddress(0xa_0000)).unwrap();
    write(&memory, CPU_MAX as u8).unwrap();
    let mut after = [0; 16];
    memory.read_slice(&mut after, GuestAddress(0xa_0000)).unwrap();
    assert_eq!(after, [0xa5; 16]);
}

#[test]
fn memory_without_the_last_kib_below_640_kib_is_an_error() {
    let small = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x9_f000)]).unwrap();
    assert!(matches!(write(&small, 1), Err(Error::Memory(_))));
}
