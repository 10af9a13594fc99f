//! A machine before KVM knows of it: its devices placed, its kernel in guest memory.
//!
//! This is all that `coracle run --dry-run` needs, so it works on hosts without KVM.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::Error;
use super::devices::{self, Device, Placed};
use super::open_files::BootFiles;
use crate::boot::{self, CommandLine, Initrd, Kernel, Protocol, parameters};
use crate::config::Config;
use crate::random::random;
use crate::timeline::{Phase, Timeline};
use crate::virtio::entropy;
use crate::x86::acpi::{self, VirtioMmioWindow};
use crate::x86::{layout, mp_table, pvh, zero_page};

/// The start of every command line: the console is the serial port, and a kernel that panics resets instead of hanging.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 reboot=k";
/// For the built-in kernel only: nobody reads what it says below a warning, and where it has one processor it leaves the
/// locks of its text alone, since to patch them away copies most of the text's pages (docs/boot.md).
const BUILT_IN_COMMAND_LINE: &str = "quiet noreplace-smp";

/// A machine without KVM's part of it.
pub struct Blueprint {
    pub kernel: Kernel,
    /// The devices that the guest finds, in the order in which it finds them.
    pub devices: Vec<Placed>,
    pub initrd: Option<Initrd>,
    pub command_line: String,
    pub rsdp: Option<GuestAddress>,
}

impl Blueprint {
    /// Loads the kernel and initrd in `files` into `guest`, which must be fresh memory, and writes what the kernel expects to
    /// find there at its entry. `files` are those that `config` names.
    ///
    /// `console_hints` are kernel parameters that tell the built-in guest about the person's terminal.
    pub fn new(
        config: &Config,
        files: &BootFiles,
        console_hints: &str,
        guest: &Arc<GuestMemoryMmap>,
        timeline: &Timeline,
    ) -> Result<Self, Error> {
        let entropy = entropy::host_is_ready();
        if !entropy {
            log::warn!(
                "the guest has no entropy device, because this host's kernel has no random numbers yet: it has just started, and \
                 its processor makes none; a guest that is started later has one"
            );
        }
        let devices = devices::place(config, entropy)?;

        // Without random numbers of the host's this would wait.
        // A kernel that unpacks itself looks for the word anywhere in the line.
        let is_off = config.cmdline.split_whitespace().any(|word| word == "nokaslr");
        // The built-in kernel is not built for it.
        let may_move = config.kernel.is_some() && entropy && !is_off;
        let kernel = boot::load_kernel(&files.kernel, guest, may_move.then(random))?;
        if let Some(distance) = kernel.moved {
            log::info!("KASLR: the kernel's virtual addresses are {distance:#x} above those in its file");
        }
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
        for Placed { device, window } in &devices {
            let VirtioMmioWindow { address, size, irq } = *window;
            match device {
                // The built-in kernel looks for a device that this parameter names after the boot, so the boot does not wait for
                // it. Its form is that of the other parameter.
                Device::Entropy if config.kernel.is_none() => {
                    line.append(&format!("virtio_mmio.last={size}@{address:#x}:{irq}"))?
                }
                _ => line.append_virtio_mmio(GuestAddress(address), irq)?,
            }
        }
        line.check(kernel.command_line_limit)?;
        let address = GuestAddress(layout::COMMAND_LINE);
        boot::command_line::write(&line, guest, address)?;

        mp_table::write(guest, config.cpus)?;
        // The built-in kernel knows no ACPI.
        let rsdp = match &config.kernel {
            Some(_) => {
                let windows: Vec<_> = devices.iter().map(|placed| placed.window).collect();
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
            devices,
            initrd,
            rsdp,
        })
    }
}

/// Without an initrd the first disk is the root file system, unless the command line names another root.
fn root_parameters(config: &Config, has_initrd: bool) -> String {
    match config.disks.first() {
        Some(disk) if !has_initrd && !parameters::names(&config.cmdline, "root") => {
            format!("root=/dev/vda {}", if disk.ro { "ro" } else { "rw" })
        }
        _ => String::new(),
    }
}

/// A Linux with memory above 4 GiB sets 64 MiB aside and clears them, for devices that cannot address all memory: this
/// machine has none, so the kernel is told not to.
fn bounce_buffer_parameters(config: &Config) -> &'static str {
    let is_needed = config.memory.0 > layout::MMIO_HOLE && !parameters::names(&config.cmdline, "swiotlb");
    if is_needed { "swiotlb=noforce" } else { "" }
}

#[cfg(test)]
#[path = "blueprint_test.rs"]
mod tests;
