//! The ACPI tables of a hardware-reduced platform (ACPI 6.4): RSDP, XSDT, FADT, MADT and DSDT.
//!
//! Hardware-reduced ACPI (section 3.11.1) spares the guest the PM timer, the SCI and the legacy interrupt
//! controllers, and Coracle their emulation.

use acpi_tables::{
    Aml, aml,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{layout, mp_table::io_apic_id};

const OEM_ID: [u8; 6] = *b"CORACL";
const OEM_TABLE_ID: [u8; 8] = *b"CORACLE ";
const OEM_REVISION: u32 = 1;

/// Section 5.2.6, table header; a table's own fields follow it.
const TABLE_HEADER_SIZE: u32 = 36;
/// Section 5.2.5.1: an RSDP is on a 16-byte boundary. The other tables may be anywhere.
const ALIGNMENT: u64 = 16;

/// Section 5.2.9.3, IA-PC boot architecture flags. Two other bits stay clear, which says that there is no legacy device
/// that ACPI does not describe, and no 8042: so no kernel probes for a keyboard. (It can still reset through port 0x64.)
const VGA_NOT_PRESENT: u16 = 1 << 2;
const MSI_NOT_SUPPORTED: u16 = 1 << 3;
const NO_PCIE_ASPM: u16 = 1 << 4;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// Section 4.8.3.6, reset register: the i8042's command port and its command to pulse the reset line.
const RESET_PORT: u16 = 0x64;
const RESET_VALUE: u8 = 0xfe;

/// SLP_TYP of S5 (soft off), which a guest writes to the sleep control register (section 4.8.3.7).
pub const SLEEP_TYPE_S5: u8 = 5;

/// A virtio-mmio device's registers, in guest addresses and bytes, and its interrupt line (GSI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmioWindow {
    pub address: u64,
    pub size: u64,
    pub irq: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the ACPI tables describe 1 to 254 CPUs, not {0} (ask for another number)")]
    CpuCount(u8),
    #[error(
        "the virtio-mmio window of {size:#x} bytes at {address:#x} is not below 4 GiB, where ACPI has room for it"
    )]
    WindowAbove4G { address: u64, size: u64 },
    #[error(
        "the ACPI tables end at guest address {end:#x}, past their area's end {limit:#x}",
        limit = layout::ACPI_TABLES_END
    )]
    TooLarge { end: u64 },
    #[error(
        "cannot write an ACPI table at guest address {address:#x}: {source} (guest memory must cover the first MiB)"
    )]
    Memory { address: u64, source: GuestMemoryError },
}

/// Writes the tables of a machine with `cpus` CPUs and these `virtio` devices from [`layout::ACPI_TABLES`] on
/// and returns the address of the RSDP. CPU n has local APIC ID n.
pub fn write(memory: &GuestMemoryMmap, cpus: u8, virtio: &[VirtioMmioWindow]) -> Result<GuestAddress, Error> {
    // The IO-APIC takes the ID after the last CPU's, and 255 is every APIC's.
    if cpus == 0 || cpus == u8::MAX {
        return Err(Error::CpuCount(cpus));
    }

    // The RSDP is first in memory, where kernels search for it, but is written last, when the XSDT's address is known.
    let rsdp = layout::ACPI_TABLES;
    let mut area = Area {
        memory,
        next: rsdp + (Rsdp::len() as u64).next_multiple_of(ALIGNMENT),
    };
    let dsdt = area.place(&dsdt(cpus, virtio)?)?;
    let fadt = area.place(&fadt(dsdt))?;
    let madt = area.place(&madt(cpus))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = area.place(&xsdt)?;
    Area { memory, next: rsdp }.place(&Rsdp::new(OEM_ID, xsdt))?;
    Ok(GuestAddress(rsdp))
}

/// Where the next table goes.
struct Area<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Area<'_> {
    /// Writes `table` and returns its address.
    fn place(&mut self, table: &dyn Aml) -> Result<u64, Error> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let address = self.next;
        let end = address + bytes.len() as u64;
        if end > layout::ACPI_TABLES_END {
            return Err(Error::TooLarge { end });
        }
        self.memory
            .write_slice(&bytes, GuestAddress(address))
            .map_err(|source| Error::Memory { address, source })?;
        self.next = end.next_multiple_of(ALIGNMENT);
        Ok(address)
    }
}

/// Section 5.2.9, Fixed ACPI Description Table.
fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::Headless)
        // These bits say that the buttons are not fixed hardware. The power button is a device, and there is no other button.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | MSI_NOT_SUPPORTED | NO_PCIE_ASPM | CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = byte_port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = byte_port(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = byte_port(layout::SLEEP_STATUS_PORT);
    fadt.finalize()
}

/// A register of one byte in I/O space.
fn byte_port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

/// Section 5.2.12, Multiple APIC Description Table. ISA interrupts need no override: each one arrives,
/// edge-triggered and active high, at the IO-APIC pin of its number.
fn madt(cpus: u8) -> impl Aml {
    const REVISION: u8 = 5;
    /// Local APIC address and flags (none: no 8259 to disable).
    const FIELDS_SIZE: u32 = 8;
    /// Section 5.2.12.7, Local APIC NMI: type, length, all processors, flags (as the bus has it), LINT1.
    const LOCAL_APIC_NMI: [u8; 6] = [4, 6, 0xff, 0, 0, 1];

    let mut structures = Vec::new();
    for cpu in 0..cpus {
        ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled).to_aml_bytes(&mut structures);
    }
    IoApic::new(io_apic_id(cpus), layout::IO_APIC as u32, 0).to_aml_bytes(&mut structures);
    structures.extend(LOCAL_APIC_NMI);

    let length = TABLE_HEADER_SIZE + FIELDS_SIZE;
    let mut madt = Sdt::new(*b"APIC", length, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(TABLE_HEADER_SIZE as usize, layout::LOCAL_APIC as u32);
    madt.append_slice(&structures);
    madt
}

/// Section 5.2.11.1, Differentiated System Description Table: the devices that a kernel cannot find in another way.
fn dsdt(cpus: u8, virtio: &[VirtioMmioWindow]) -> Result<impl Aml, Error> {
    /// From revision 2 on, AML integers have 64 bits.
    const REVISION: u8 = 2;

    let mut devices = Vec::new();
    for cpu in 0..cpus {
        processor(cpu, &mut devices);
    }
    serial_port(&mut devices);
    power_button(&mut devices);
    for (index, window) in virtio.iter().enumerate() {
        virtio_mmio(index, window, &mut devices)?;
    }
    let mut dsdt = Sdt::new(
        *b"DSDT",
        TABLE_HEADER_SIZE,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    dsdt.append_slice(&aml::Scope::raw("\\_SB_".into(), devices));
    dsdt.append_slice(&soft_off());
    Ok(dsdt)
}

/// Section 8.4: a processor device. Its local APIC is the entry of the MADT that has the same UID.
fn processor(cpu: u8, devices: &mut Vec<u8>) {
    aml::Device::new(
        format!("C0{cpu:02X}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"ACPI0007"),
            &aml::Name::new("_UID".into(), &cpu),
        ],
    )
    .to_aml_bytes(devices);
}

/// The 16550A console.
fn serial_port(devices: &mut Vec<u8>) {
    let ports = aml::IO::new(
        layout::SERIAL_PORT,
        layout::SERIAL_PORT,
        1,
        layout::SERIAL_PORT_COUNT as u8,
    );
    let interrupt = edge_interrupt(layout::SERIAL_IRQ);
    aml::Device::new(
        "COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![&ports, &interrupt]),
            ),
        ],
    )
    .to_aml_bytes(devices);
}

/// The value with which a button notifies that it was pressed (section 4.8.2.2.1.2).
const PRESSED: u8 = 0x80;

/// The power button (section 4.8.2.2.1.2), and the Generic Event Device (section 5.6.9) that notifies it when its interrupt comes.
fn power_button(devices: &mut Vec<u8>) {
    const IRQ: u8 = layout::POWER_BUTTON_IRQ as u8;
    aml::Device::new(
        "PWRB".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C0C")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
        ],
    )
    .to_aml_bytes(devices);
    let interrupt = edge_interrupt(IRQ.into());
    let button = aml::Path::new("\\_SB_.PWRB");
    let is_its_own = aml::Equal::new(&aml::Arg(0), &IRQ);
    let notify = aml::Notify::new(&button, &PRESSED);
    aml::Device::new(
        "GED0".into(),
        vec![
            &aml::Name::new("_HID".into(), &"ACPI0013"),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&interrupt])),
            &aml::Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&aml::If::new(&is_its_own, vec![&notify])],
            ),
        ],
    )
    .to_aml_bytes(devices);
}

/// "LNRO0005" is the ID by which Linux's virtio-mmio driver knows its devices.
fn virtio_mmio(index: usize, window: &VirtioMmioWindow, devices: &mut Vec<u8>) -> Result<(), Error> {
    let VirtioMmioWindow { address, size, irq } = *window;
    let above_4g = |_| Error::WindowAbove4G { address, size };
    let base = u32::try_from(address).map_err(above_4g)?;
    let length = u32::try_from(size).map_err(above_4g)?;
    base.checked_add(length)
        .ok_or(Error::WindowAbove4G { address, size })?;

    let registers = aml::Memory32Fixed::new(true, base, length);
    let interrupt = edge_interrupt(irq);
    aml::Device::new(
        format!("VR{index:02X}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &index),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![&registers, &interrupt]),
            ),
        ],
    )
    .to_aml_bytes(devices);
    Ok(())
}

/// An interrupt line of one device, which signals by a rising edge.
fn edge_interrupt(gsi: u32) -> aml::Interrupt {
    let (consumer, edge_triggered, active_low, shared) = (true, true, false, false);
    aml::Interrupt::new(consumer, edge_triggered, active_low, shared, gsi)
}

/// Section 7.4.2.6, `\_S5`: the value that powers off when it is written to the sleep control register.
fn soft_off() -> Vec<u8> {
    let mut bytes = Vec::new();
    let package = aml::Package::new(vec![&SLEEP_TYPE_S5, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    aml::Name::new("\\_S5_".into(), &package).to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
#[path = "acpi_test.rs"]
mod tests;
