//! Makes a machine of a [`Config`] and starts it: then it is a [`Running`], which ends with an [`Outcome`].

mod activity;
mod address_width;
mod blueprint;
mod devices;
mod dry_run;
mod footprint;
mod halt;
mod hardware;
mod kick;
mod limits;
mod memory;
mod open_files;
mod orders;
mod outcome;
mod running;
mod vcpu;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::{io, thread};

pub use activity::Activity;
use activity::Counters;
pub use dry_run::DryRun;
pub use footprint::{Footprint, Mappings, Meter};
pub use limits::{LimitReached, share_heap};
use memory::Memory;
pub use open_files::OpenFiles;
pub use outcome::Outcome;
use running::Reached;
pub use running::Running;

use crate::boot::{self, Kernel, Protocol};
use crate::built_in;
use crate::bus::{self, Bus};
use crate::config::Config;
use crate::devices::boot_clock::BootClock;
use crate::devices::keyboard::KeyboardController;
use crate::devices::power::SleepRegisters;
use crate::devices::power_button::PowerButton;
use crate::devices::serial::SerialPort;
use crate::devices::sink::Sink;
use crate::kvm::{self, Vcpu, Vm};
use crate::threads;
use crate::timeline::{Phase, Timeline};
use crate::virtio::VirtioDevice;
use crate::virtio::block::{Block, ImageError};
use crate::virtio::entropy::Entropy;
use crate::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::vsock::{self, Vsock};
use crate::x86::{acpi, cpuid, layout, mp_table, pvh, registers, zero_page};
use blueprint::Blueprint;
use devices::{Device, Placed};
use halt::HaltWatch;
use hardware::{Hardware, Processor};
use orders::Orders;

/// Why a machine could not be built or started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    #[error(transparent)]
    Boot(#[from] boot::Error),
    #[error(transparent)]
    CommandLine(#[from] boot::command_line::Error),
    #[error(transparent)]
    Devices(#[from] devices::TooMany),
    #[error(transparent)]
    Disk(#[from] ImageError),
    #[error(transparent)]
    Vsock(#[from] vsock::OpenError),
    #[error(transparent)]
    Memory(#[from] memory::Error),
    #[error(transparent)]
    AddressWidth(#[from] address_width::TooWide),
    #[error(transparent)]
    Cpu(#[from] cpuid::NotOffered),
    #[error(transparent)]
    MpTable(#[from] mp_table::Error),
    #[error(transparent)]
    Acpi(#[from] acpi::Error),
    #[error(transparent)]
    ZeroPage(#[from] zero_page::Error),
    #[error(transparent)]
    StartInfo(#[from] pvh::Error),
    #[error("cannot write the boot tables to guest memory: {0}")]
    BootTables(#[from] vm_memory::GuestMemoryError),
    #[error(transparent)]
    Bus(#[from] bus::RangeTaken),
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: io::Error },
    #[error(
        "this coracle carries no built-in guest: give a kernel with --kernel FILE, or build one in with 'make guest' \
         and build coracle again"
    )]
    NoBuiltInGuest,
}

impl Error {
    /// Whether a file that the configuration names does not exist.
    pub fn is_missing_file(&self) -> bool {
        match self {
            Self::Boot(error) => error.is_missing(),
            Self::Disk(error) => error.is_missing(),
            _ => false,
        }
    }

    /// Whether the host cannot run any machine, or not as confined as it should be.
    pub fn is_host(&self) -> bool {
        matches!(self, Self::Kvm(_) | Self::Vsock(vsock::OpenError::NotConfined(_)))
    }
}

/// A machine that is ready to run: the registers of its first vCPU are set for the kernel's entry.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    board: Arc<vcpu::Board>,
    serial: Arc<SerialPort>,
    transports: Vec<Arc<MmioTransport>>,
    reached: Reached,
    /// This and the memory are declared last, so they are dropped after everything that uses guest memory.
    vm: Vm,
    memory: Memory,
    command_line: String,
    has_initrd: bool,
    kernel_moved: u64,
    timeline: Timeline,
}

impl Machine {
    /// Builds the machine of `config` with the files in `opened`. `console` gets the console's output.
    ///
    /// `console_hints` are kernel parameters that tell the built-in guest about the person's terminal.
    pub fn build(
        config: &Config,
        opened: &OpenFiles,
        console_hints: &str,
        console: Arc<dyn Sink>,
        timeline: &Timeline,
    ) -> Result<Self, Error> {
        let built_in = config.kernel.is_none();
        let memory = match built_in {
            true => Memory::allocate(config.memory.0, built_in::HARDLY_WRITTEN_AT_BOOT)?,
            // Before the kernel runs, only the boot tables are written below 1 MiB: a large page would be cleared for little.
            false => Memory::allocate(config.memory.0, Some(0..layout::HIGH_MEMORY))?,
        };
        let guest = memory.guest();
        timeline.mark(Phase::MemoryMapped);
        let disk_threads: usize = opened.disks.iter().map(|disk| disk.threads()).sum();
        let vsock_threads = opened.vsock.iter().count();
        limits::prove_address_space(usize::from(config.cpus) + disk_threads + vsock_threads)
            .map_err(system("reserve address space"))?;
        let kvm = &opened.kvm;
        address_width::check(config.memory.0, kvm)?;
        // KVM takes most of its time to make a VM by waiting, for its threads and for grace periods. The blueprint is made on
        // another thread meanwhile.
        let made = AtomicBool::new(false);
        let (tell, processor) = mpsc::channel();
        let (hardware, blueprint) = thread::scope(|scope| {
            let (memory, made) = (&memory, &made);
            let blueprint = move || {
                // This fails only when the other thread has returned with an error, which is reported instead.
                let _ = tell.send(Processor::ask(kvm, config.cpu));
                timeline.mark(Phase::ProcessorKnown);
                let blueprint = Blueprint::new(config, &opened.boot, console_hints, guest, timeline)?;
                if built_in {
                    built_in::written_at_boot().for_each(|range| memory.provide(range, made));
                }
                Ok::<_, Error>(blueprint)
            };
            let blueprint = thread::Builder::new()
                .name("blueprint".into())
                .spawn_scoped(scope, blueprint);
            // SAFETY: the memory was allocated before the VM, so a return or a panic here drops it after the VM. Machine and
            // Running declare it last, and drop it last.
            let hardware =
                unsafe { Hardware::create(kvm, guest, config.cpus, config.cpu, !built_in, timeline) };
            let hardware = hardware.map_err(Error::from).and_then(|hardware| {
                if let Ok(processor) = processor.recv() {
                    processor?.set_up(&hardware.vcpus)?;
                    timeline.mark(Phase::VcpusSetUp);
                }
                Ok(hardware)
            });
            made.store(true, Ordering::Relaxed);
            (hardware, blueprint.map(|thread| thread.join()))
        });
        let blueprint = blueprint.map_err(|error| system("start a thread")(threads::not_started(error)))?;
        let blueprint =
            blueprint.map_err(|_| system("load the kernel")(io::Error::other("its thread panicked")))??;
        let Blueprint {
            kernel,
            devices,
            initrd,
            command_line,
            ..
        } = blueprint;
        let Hardware { vm, vcpus } = hardware?;
        set_entry(&vcpus[0], &kernel, &memory)?;

        let orders = Arc::new(Orders::new(vcpus.len()).map_err(system("make an event"))?);
        let mut ports = Bus::default();
        let serial = attach_serial(&vm, &mut ports, console)?;
        attach_ends(&mut ports, &orders)?;
        if timeline.is_on() {
            attach_boot_clock(&mut ports, timeline)?;
        }
        let mut mmio = Bus::default();
        let transports = devices
            .into_iter()
            .map(|placed| attach_virtio(&vm, &mut mmio, &memory, placed, opened))
            .collect::<Result<_, _>>()?;
        let reached = Reached {
            // The ACPI tables tell of it.
            power_button: (!built_in).then(|| PowerButton::new(vm.interrupt(layout::POWER_BUTTON_IRQ))),
            agent: opened.vsock.clone().filter(|vsock| vsock.expects_service()),
            counters: Counters::of(opened),
            meter: opened
                .mappings
                .as_ref()
                .map(|mappings| mappings.meter(memory.addresses())),
            brings_agent: config.kernel.is_none() && config.initrd.is_none(),
        };
        timeline.mark(Phase::DevicesAttached);

        let board = Arc::new(vcpu::Board {
            ports,
            mmio,
            memory: memory.guest().clone(),
            orders,
            halts: HaltWatch::new(vcpus.len()),
        });
        Ok(Self {
            vcpus,
            board,
            serial,
            transports,
            reached,
            vm,
            memory,
            command_line,
            has_initrd: initrd.is_some(),
            kernel_moved: kernel.moved.unwrap_or(0),
            timeline: timeline.clone(),
        })
    }

    /// The kernel's whole command line.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    pub fn has_initrd(&self) -> bool {
        self.has_initrd
    }

    /// How far the kernel's virtual addresses are above those in its file.
    pub fn kernel_moved(&self) -> u64 {
        self.kernel_moved
    }

    /// Has [`Running::activity`] tell of exits as well.
    pub fn count_exits(&mut self) {
        self.reached.counters.open(&self.vcpus);
    }

    /// Makes what the devices will need, and then starts a thread for each vCPU. To be called after the signals that end a
    /// run are blocked, because the threads inherit that.
    pub fn start(self) -> Result<Running, Error> {
        for transport in &self.transports {
            transport.prepare().map_err(system("start a device's thread"))?;
        }
        kick::catch_signal().map_err(system("catch a signal"))?;
        let statistics = || {
            self.vcpus
                .iter()
                .filter_map(|vcpu| vcpu.statistics().ok())
                .collect()
        };
        self.timeline.guest_starts(self.memory.guest(), statistics);
        Running::start(
            self.vcpus,
            self.board,
            self.serial,
            self.transports,
            self.reached,
            (self.vm, self.memory),
            &self.timeline,
        )
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Sets the registers of the first vCPU for the kernel's entry. The other vCPUs wait until the kernel starts them.
fn set_entry(vcpu: &Vcpu, kernel: &Kernel, memory: &Memory) -> Result<(), Error> {
    let mut registers = vcpu.registers()?;
    let mut special = vcpu.special_registers()?;
    let set = match kernel.protocol {
        Protocol::Pvh => registers::set_pvh,
        Protocol::Linux64 => registers::set_linux64,
    };
    set(memory.guest(), kernel.entry, &mut registers, &mut special)?;
    vcpu.set_special_registers(&special)?;
    vcpu.set_registers(&registers)?;
    Ok(())
}

fn attach_serial(vm: &Vm, ports: &mut Bus, console: Arc<dyn Sink>) -> Result<Arc<SerialPort>, Error> {
    let serial = Arc::new(SerialPort::new(vm.interrupt(layout::SERIAL_IRQ), console));
    ports.attach(
        layout::SERIAL_PORT.into(),
        layout::SERIAL_PORT_COUNT.into(),
        serial.clone(),
    )?;
    Ok(serial)
}

/// Attaches the devices by which a guest powers itself off or resets itself.
fn attach_ends(ports: &mut Bus, orders: &Arc<Orders>) -> Result<(), Error> {
    let power_off = {
        let orders = orders.clone();
        SleepRegisters::new(acpi::SLEEP_TYPE_S5, move || orders.stop(Outcome::PoweredOff))
    };
    let sleep_registers = layout::SLEEP_STATUS_PORT - layout::SLEEP_CONTROL_PORT + 1;
    ports.attach(
        layout::SLEEP_CONTROL_PORT.into(),
        sleep_registers.into(),
        Arc::new(power_off),
    )?;
    let reset = {
        let orders = orders.clone();
        KeyboardController::new(move || orders.stop(Outcome::Reset))
    };
    ports.attach(
        layout::KEYBOARD_PORT.into(),
        layout::KEYBOARD_PORT_COUNT.into(),
        Arc::new(reset),
    )?;
    Ok(())
}

/// Attaches the port to which a guest writes how far its boot is, for `--timings`.
fn attach_boot_clock(ports: &mut Bus, timeline: &Timeline) -> Result<(), Error> {
    let timeline = timeline.clone();
    let clock = BootClock::new(move |value| timeline.mark_of_guest(value));
    ports.attach(layout::BOOT_CLOCK_PORT.into(), 1, Arc::new(clock))?;
    Ok(())
}

/// Attaches a virtio device of the `opened` files.
fn attach_virtio(
    vm: &Vm,
    mmio: &mut Bus,
    memory: &Memory,
    Placed { device, window }: Placed,
    opened: &OpenFiles,
) -> Result<Arc<MmioTransport>, Error> {
    let virtio: Box<dyn VirtioDevice> = match device {
        Device::Disk(number) => Box::new(Block::new(opened.disks[number].clone())),
        Device::Vsock => {
            let backend = opened.vsock.clone();
            let missing = || io::Error::other("the configuration has none");
            Box::new(Vsock::new(
                backend
                    .ok_or_else(missing)
                    .map_err(system("make the socket device"))?,
            ))
        }
        Device::Entropy => Box::new(Entropy::new(opened.entropy_log.clone())),
    };
    let interrupt = vm.interrupt(window.irq);
    let transport = MmioTransport::new(memory.guest().clone(), interrupt, virtio);
    let transport = Arc::new(transport.map_err(system("make a device's notifiers"))?);
    mmio.attach(window.address, window.size, transport.clone())?;
    // The guest's notifications wake a device's threads without an exit from the guest to Coracle. Those of the entropy device
    // are served by the vCPU that makes them.
    if device != Device::Entropy {
        for (queue, notifier) in (0..).zip(transport.queue_notifiers()) {
            vm.connect_notification(notifier, window.address + QUEUE_NOTIFY, queue)?;
        }
    }
    Ok(transport)
}
