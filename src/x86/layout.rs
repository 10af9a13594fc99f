//! Where everything is in the guest's address space. All addresses are guest addresses, in bytes.

/// Global descriptor table for the boot registers.
pub const GDT: u64 = 0x500;
/// PVH `hvm_start_info`, its module list and memory map (Xen PVH boot ABI).
pub const START_INFO: u64 = 0x6000;
/// Zero page, `struct boot_params` (Linux x86 boot protocol).
pub const ZERO_PAGE: u64 = 0x7000;
/// Stack of the 64-bit entry, growing down.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables for the 64-bit entry: PML4, PDPT, four page directories, 4 KiB each.
pub const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line, NUL-terminated, at most [`COMMAND_LINE_MAX`] bytes.
pub const COMMAND_LINE: u64 = 0x20000;
pub const COMMAND_LINE_MAX: usize = 0x10000;
/// A kernel may use memory below this. The extended BIOS data area begins here, with the MP table.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
pub const MP_TABLE: u64 = LOW_MEMORY_END;
/// The RSDP, in the area that kernels search for it (ACPI 6.4 section 5.2.5.1). The other tables follow it.
pub const ACPI_TABLES: u64 = 0xe_0000;
pub const ACPI_TABLES_END: u64 = 0x10_0000;
/// The lowest address to which a kernel may be loaded.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// Devices have the addresses from here to 4 GiB. Guest memory that does not fit below continues at [`MEMORY_ABOVE_4G`].
pub const MMIO_HOLE: u64 = 0xc000_0000;
pub const MEMORY_ABOVE_4G: u64 = 0x1_0000_0000;

/// virtio-mmio windows, [`VIRTIO_MMIO_SIZE`] bytes each.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
pub const IO_APIC: u64 = 0xfec0_0000;
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Three pages that KVM needs on Intel processors (KVM API, `KVM_SET_TSS_ADDR`), and the page before them, which it needs
/// for its identity map.
pub const KVM_TSS: u64 = 0xfffb_d000;
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// I/O ports.
pub const SERIAL_PORT: u16 = 0x3f8;
pub const SERIAL_PORT_COUNT: u16 = 8;
/// The keyboard controller i8042: data port 0x60 and command port 0x64. Port 0x61 between them belongs to the PIT in KVM.
pub const KEYBOARD_PORT: u16 = 0x60;
pub const KEYBOARD_PORT_COUNT: u16 = 5;
/// The boot clock, one byte wide: a guest writes here how far it has come (docs/timings.md).
pub const BOOT_CLOCK_PORT: u16 = 0x5f0;
/// ACPI 6.4 section 4.8.3.7, Sleep Control and Status Registers (a byte each).
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
pub const SLEEP_STATUS_PORT: u16 = 0x601;

// Interrupt lines (GSIs). The IO-APIC has 24.

/// That of the power button, which only a machine with ACPI tables has.
pub const POWER_BUTTON_IRQ: u32 = 3;
pub const SERIAL_IRQ: u32 = 4;
pub const VIRTIO_IRQ_FIRST: u32 = 5;
pub const VIRTIO_IRQ_LAST: u32 = 23;
/// How many virtio-mmio devices there can be: each has an interrupt line of its own.
pub const VIRTIO_DEVICE_MAX: usize = (VIRTIO_IRQ_LAST - VIRTIO_IRQ_FIRST + 1) as usize;
