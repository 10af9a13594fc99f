//! A machine before KVM knows of it: its devices placed, its kernel in guest memory.
//!
//! This is all that `coracle run --dry-run` needs, so it works on hosts without KVM.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::Error;
use super::open_files::BootFiles;
use crate::boot::{self, CommandLine, Initrd, Kernel, Protocol, parameters};
use crate::config::{Config, DISKS_MAX};
use crate::timings::{Phase, Timeline};
use crate::x86::acpi::{self, VirtioMmioWindow};
use crate::x86::{layout, mp_table, pvh, zero_page};

/// On every command line, before the text of the person: the serial console, and an end rather than a hang
/// when the kernel panics.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 reboot=k";
/// Also for the built-in kernel, which is spared clearing memory that is zero already.
const BUILT_IN_COMMAND_LINE: &str = "quiet coracle.zeroed";

/// Everything about a machine but KVM.
pub struct Blueprint {
    pub kernel: Kernel,
    /// Where the guest finds each disk.
    pub disks: Vec<VirtioMmioWindow>,
    /// Where the entropy device is: behind the disks, so that what a guest calls them does not change.
    pub entropy: VirtioMmioWindow,
    pub initrd: Option<Initrd>,
    pub command_line: String,
    pub rsdp: Option<GuestAddress>,
}

impl Blueprint {
    /// Fills fresh guest memory as the kernel of `files`, which are those of `config`, expects it at its entry.
    ///
    /// `console_hints` are kernel parameters that tell the built-in guest about the person's terminal.
    pub fn new(
        config: &Config,
        files: &BootFiles,
        console_hints: &str,
        guest: &Arc<GuestMemoryMmap>,
        timeline: &Timeline,
    ) -> Result<Self, Error> {
        let disks: Vec<_> = (0..config.disks.len()).map(window).collect();
        let entropy = window(disks.len());

        let kernel = boot::load_kernel(&files.kernel, guest)?;
        let initrd = files
            .initrd
            .as_ref()
            .map(|image| boot::load_initrd(image, guest, &kernel))
            .transpose()?;

        timeline.mark(Phase::KernelLoaded);

        let mut line = CommandLine::new(COMMAND_LINE)?;
        if config.kernel.is_none() {
            line.append(BUILT_IN_COMMAND_LINE)?;
            line.append(console_hints)?;
        }
        line.append(&root_parameters(config, initrd.is_some()))?;
        line.append(bounce_buffer_parameters(config))?;
        line.append_persons(&config.cmdline, config.kernel.is_none())?;
        for disk in &disks {
            line.append_virtio_mmio(GuestAddress(disk.address), disk.irq)?;
        }
        match &config.kernel {
            Some(_) => line.append_virtio_mmio(GuestAddress(entropy.address), entropy.irq)?,
            // The built-in kernel's own parameter, of the same form, for a device that the boot need not wait for.
            None => {
                let VirtioMmioWindow { address, size, irq } = entropy;
                line.append(&format!("virtio_mmio.last={size}@{address:#x}:{irq}"))?;
            }
        }
        line.check(kernel.command_line_limit)?;
        let address = GuestAddress(layout::COMMAND_LINE);
        boot::command_line::write(&line, guest, address)?;

        mp_table::write(guest, config.cpus)?;
        // The built-in kernel knows no ACPI.
        let rsdp = match &config.kernel {
            Some(_) => {
                let windows = [disks.as_slice(), &[entropy]].concat();
                Some(acpi::write(guest, config.cpus, &windows)?)
            }
            None => None,
        };
        let modules = initrd.as_ref().map(|initrd| (initrd.address.0, initrd.size));
        match kernel.protocol {
            Protocol::Pvh => pvh::write(guest, address, modules, rsdp)?,
            Protocol::Linux64 => {
                zero_page::write(guest, kernel.setup_header.as_ref(), address, modules, rsdp)?
            }
        }
        timeline.mark(Phase::BootTablesWritten);
        Ok(Self {
            command_line: line.text(),
            kernel,
            disks,
            entropy,
            initrd,
            rsdp,
        })
    }
}

const _: () = assert!(
    DISKS_MAX < layout::VIRTIO_DEVICE_MAX,
    "each disk needs a window and a line, and so does the entropy device"
);

/// Where the virtio device with this number is.
fn window(index: usize) -> VirtioMmioWindow {
    VirtioMmioWindow {
        address: layout::VIRTIO_MMIO + index as u64 * layout::VIRTIO_MMIO_SIZE,
        size: layout::VIRTIO_MMIO_SIZE,
        irq: layout::VIRTIO_IRQ_FIRST + index as u32,
    }
}

/// Without an initrd the first disk is the root file system, unless the person says otherwise.
fn root_parameters(config: &Config, has_initrd: bool) -> String {
    match config.disks.first() {
        Some(disk) if !has_initrd && !parameters::names(&config.cmdline, "root") => {
            format!("root=/dev/vda {}", if disk.ro { "ro" } else { "rw" })
        }
        _ => String::new(),
    }
}

/// A Linux with memory above 4 GiB sets 64 MiB aside and clears them, for devices that cannot address all memory: this
/// machine has none, so the kernel is told not to. The built-in kernel does not do it in the first place.
fn bounce_buffer_parameters(config: &Config) -> &'static str {
    let is_needed = config.kernel.is_some()
        && config.memory.0 > layout::MMIO_HOLE
        && !parameters::names(&config.cmdline, "swiotlb");
    if is_needed { "swiotlb=noforce" } else { "" }
}

#[cfg(test)]
#[path = "blueprint_test.rs"]
mod tests;
