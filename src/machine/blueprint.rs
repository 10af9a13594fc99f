//! A machine before KVM knows of it: its devices placed, its kernel in guest memory.
//!
//! This is all that `coracle run --dry-run` needs, so it works on hosts without KVM.

use std::fmt;
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{Error, OpenFiles};
use crate::boot::{self, CommandLine, Initrd, Kernel, Protocol};
use crate::config::{self, Config, DISKS_MAX};
use crate::timings::{Phase, Timeline};
use crate::virtio::block::Disk;
use crate::x86::acpi::{self, VirtioMmioWindow};
use crate::x86::memory_map::{Kind, memory_map};
use crate::x86::{layout, mp_table, pvh, zero_page};

/// On every command line, before the text of the person: the serial console, and an end rather than a hang
/// when the kernel panics.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 reboot=k";
/// Also for the built-in kernel, which is spared clearing memory that is zero already.
const BUILT_IN_COMMAND_LINE: &str = "quiet coracle.zeroed";

/// A disk and where the guest finds it.
pub struct PlacedDisk {
    pub disk: Arc<Disk>,
    pub window: VirtioMmioWindow,
}

/// Everything about a machine but KVM.
pub struct Blueprint {
    memory: Arc<GuestMemoryMmap>,
    pub kernel: Kernel,
    pub disks: Vec<PlacedDisk>,
    /// Where the entropy device is: behind the disks, so that what a guest calls them does not change.
    pub entropy: VirtioMmioWindow,
    pub initrd: Option<Initrd>,
    pub command_line: String,
    rsdp: Option<GuestAddress>,
    config: Config,
}

impl Blueprint {
    /// Fills fresh guest memory as the kernel expects it at its entry, from the files of `config`, which are `opened`.
    ///
    /// `console_hints` are kernel parameters that tell the built-in guest about the person's terminal.
    pub fn new(
        config: &Config,
        opened: &OpenFiles,
        console_hints: &str,
        guest: &Arc<GuestMemoryMmap>,
        timeline: &Timeline,
    ) -> Result<Self, Error> {
        let disks = place_disks(&opened.disks);
        let entropy = window(disks.len());

        let kernel = boot::load_kernel(&opened.kernel, guest)?;
        let initrd = opened
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
        line.append(&config.cmdline)?;
        for disk in &disks {
            line.append_virtio_mmio(GuestAddress(disk.window.address), disk.window.irq)?;
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
                let windows = disks.iter().map(|disk| disk.window).chain([entropy]);
                let windows: Vec<_> = windows.collect();
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
            command_line: line.text()?,
            memory: guest.clone(),
            kernel,
            disks,
            entropy,
            initrd,
            rsdp,
            config: config.clone(),
        })
    }
}

const _: () = assert!(
    DISKS_MAX < layout::VIRTIO_DEVICE_MAX,
    "each disk needs a window and a line, and so does the entropy device"
);

/// Gives each disk a window and an interrupt line.
fn place_disks(disks: &[Arc<Disk>]) -> Vec<PlacedDisk> {
    let place = |(index, disk): (usize, &Arc<Disk>)| PlacedDisk {
        disk: disk.clone(),
        window: window(index),
    };
    disks.iter().enumerate().map(place).collect()
}

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
        Some(disk) if !has_initrd && !config.cmdline.split(' ').any(|word| word.starts_with("root=")) => {
            format!("root=/dev/vda {}", if disk.ro { "ro" } else { "rw" })
        }
        _ => String::new(),
    }
}

/// What `--dry-run` prints.
impl fmt::Display for Blueprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel_name = match &self.config.kernel {
            Some(path) => path.display().to_string(),
            None => "built-in".into(),
        };
        writeln!(f, "kernel        {kernel_name}")?;
        writeln!(f, "  format      {}", self.kernel.format)?;
        writeln!(
            f,
            "  entry       {:#x}, {}",
            self.kernel.entry.0, self.kernel.protocol
        )?;
        writeln!(f, "  ends at     {:#x}", self.kernel.end.0)?;
        match &self.initrd {
            Some(initrd) => writeln!(f, "initrd        {:#x}, {} bytes", initrd.address.0, initrd.size)?,
            None => writeln!(f, "initrd        none")?,
        }
        writeln!(f, "command line  {}", self.command_line)?;
        writeln!(f, "vCPUs         {}", self.config.cpus)?;
        writeln!(f, "memory        {} MiB", self.config.memory.0 >> 20)?;
        for range in memory_map(&self.memory) {
            let kind = match range.kind {
                Kind::Ram => "RAM",
                Kind::Reserved => "reserved",
            };
            writeln!(
                f,
                "  {:#012x} to {:#012x}  {kind}",
                range.start,
                range.start + range.size
            )?;
        }
        writeln!(f, "tables        MP table at {:#x}", layout::MP_TABLE)?;
        if let Some(rsdp) = self.rsdp {
            writeln!(f, "              ACPI, RSDP at {:#x}", rsdp.0)?;
        }
        writeln!(f, "devices")?;
        let ports = |first: u16, count: u16| format!("ports {first:#x} to {:#x}", first + count - 1);
        let serial = ports(layout::SERIAL_PORT, layout::SERIAL_PORT_COUNT);
        writeln!(
            f,
            "  serial console (16550A)       {serial}, IRQ {}",
            layout::SERIAL_IRQ
        )?;
        let keyboard = ports(layout::KEYBOARD_PORT, layout::KEYBOARD_PORT_COUNT);
        writeln!(f, "  keyboard controller (reset)   {keyboard}")?;
        writeln!(
            f,
            "  sleep registers (power-off)   {}",
            ports(layout::SLEEP_CONTROL_PORT, 2)
        )?;
        let place = |&VirtioMmioWindow { address, size, irq }: &VirtioMmioWindow| {
            format!("{address:#x} to {:#x}, IRQ {irq}", address + size - 1)
        };
        for (index, (placed, config)) in self.disks.iter().zip(&self.config.disks).enumerate() {
            let name = format!("virtio disk {index}");
            let mode = match config {
                config::Disk { ro: true, .. } => "read-only",
                config::Disk { ephemeral: true, .. } => "ephemeral",
                _ => "read-write",
            };
            writeln!(
                f,
                "  {name:<29} {}: {}, {mode}",
                place(&placed.window),
                config.file.display()
            )?;
            writeln!(
                f,
                "    queues {}, cache {}, engine {}",
                placed.disk.queues(),
                config.cache,
                placed.disk.engine()
            )?;
            for file in placed.disk.files().iter().skip(1) {
                writeln!(f, "    on {}", file.display())?;
            }
        }
        writeln!(f, "  {:<29} {}", "virtio entropy", place(&self.entropy))?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "blueprint_test.rs"]
mod tests;
