//! What a machine would be, for `--dry-run`: nothing is made, locked, or opened for writing.

use std::fmt;

use super::blueprint::Blueprint;
use super::devices::{Device, Placed};
use super::open_files::BootFiles;
use super::{Error, Memory};
use crate::boot::Format;
use crate::config::{self, Config};
use crate::plain_text::shell_word;
use crate::timeline::Timeline;
use crate::virtio::block::{ImageError, Preview, check_each_once};
use crate::x86::acpi::VirtioMmioWindow;
use crate::x86::layout;
use crate::x86::memory_map::{Kind, memory_map};

/// A machine as text.
pub struct DryRun {
    config: Config,
    memory: Memory,
    blueprint: Blueprint,
    disks: Vec<Preview>,
}

impl DryRun {
    /// Looks at the files of `config`. `console_hints` are kernel parameters for the built-in guest.
    pub fn new(config: &Config, console_hints: &str) -> Result<Self, Error> {
        let files = BootFiles::open(config)?;
        check_each_once(&config.disks).map_err(ImageError::from)?;
        let disks = config.disks.iter();
        let disks = disks
            .map(|disk| Preview::of(disk, config.cpus))
            .collect::<Result<_, _>>()?;
        let memory = Memory::allocate(config.memory.0, None)?;
        let blueprint = Blueprint::new(config, &files, console_hints, memory.guest(), &Timeline::off())?;
        Ok(Self {
            config: config.clone(),
            memory,
            blueprint,
            disks,
        })
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            config,
            memory,
            blueprint,
            disks,
        } = self;
        let kernel_name = match &config.kernel {
            Some(path) => shell_word(path),
            None => "built-in".into(),
        };
        writeln!(f, "kernel        {kernel_name}")?;
        writeln!(f, "  format      {}", blueprint.kernel.format)?;
        writeln!(
            f,
            "  entry       {:#x}, {}",
            blueprint.kernel.entry.0, blueprint.kernel.protocol
        )?;
        writeln!(f, "  ends at     {:#x}", blueprint.kernel.end.0)?;
        let kaslr = match (blueprint.kernel.moved, blueprint.kernel.format) {
            (Some(_), _) => "random virtual addresses, others at each start (off with nokaslr)",
            (None, Format::BzImage) => "as the kernel does it itself",
            (None, _) => "none",
        };
        writeln!(f, "  KASLR       {kaslr}")?;
        match &blueprint.initrd {
            Some(initrd) => writeln!(f, "initrd        {:#x}, {} bytes", initrd.address.0, initrd.size)?,
            None => writeln!(f, "initrd        none")?,
        }
        writeln!(f, "command line  {}", blueprint.command_line)?;
        writeln!(f, "vCPUs         {}", config.cpus)?;
        writeln!(f, "  processor   {}", config.cpu)?;
        writeln!(f, "memory        {} MiB", config.memory.0 >> 20)?;
        for range in memory_map(memory.guest()) {
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
        if let Some(rsdp) = blueprint.rsdp {
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
        for Placed { device, window } in &blueprint.devices {
            let place = place(window);
            match *device {
                Device::Disk(number) => {
                    let (config, disk) = (&config.disks[number], &disks[number]);
                    let name = format!("virtio disk {number}");
                    let mode: String = match config {
                        config::Disk { ro: true, .. } => "read-only".into(),
                        config::Disk { ephemeral: true, .. } => {
                            format!("ephemeral, up to {}", config.limit())
                        }
                        _ => "read-write".into(),
                    };
                    writeln!(f, "  {name:<29} {place}: {}, {mode}", shell_word(&config.file))?;
                    writeln!(
                        f,
                        "    queues {}, cache {}, engine {}",
                        disk.queues, config.cache, disk.engine
                    )?;
                    if let Some(data) = &disk.data {
                        writeln!(f, "    data in {data}")?;
                    }
                    for backing in &disk.backing {
                        writeln!(f, "    on {backing}")?;
                    }
                }
                Device::Vsock => {
                    let vsock = config.vsock.clone().unwrap_or_default();
                    let path = vsock.path.as_deref().map_or("no socket".into(), shell_word);
                    writeln!(f, "  {:<29} {place}: {path}, cid {}", "virtio socket", vsock.cid)?;
                }
                Device::Entropy => writeln!(f, "  {:<29} {place}", "virtio entropy")?,
            }
        }
        Ok(())
    }
}
