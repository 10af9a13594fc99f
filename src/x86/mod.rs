//! What only an x86 PC has.

pub mod acpi;
pub mod cpuid;
pub mod layout;
pub mod memory_map;
pub mod mp_table;
pub mod msrs;
pub mod pvh;
pub mod registers;
pub mod zero_page;
