//! How well this host's KVM runs guests: what it offers, and how fast it runs the kernel of a guest.
//!
//! A KVM without hardware virtualization interprets guest kernels, which is thousands of times slower. It offers the same
//! capabilities as any other, so the only way to find out is to run a tiny guest and to time it.

use std::arch::asm;
use std::io;
use std::time::{Duration, Instant};

use kvm_bindings::KVM_EXIT_HLT;
use kvm_ioctls::Cap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{Error, Exit, Kvm, Registers, Segment, Vcpu};

/// A capability that KVM may have, by its name in the KVM API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    pub name: &'static str,
    /// Whether Coracle cannot run guests without it.
    pub required: bool,
    pub present: bool,
}

const CAPABILITIES: &[(&str, Cap, bool)] = &[
    ("KVM_CAP_USER_MEMORY", Cap::UserMemory, true),
    ("KVM_CAP_EXT_CPUID", Cap::ExtCpuid, true),
    ("KVM_CAP_SET_TSS_ADDR", Cap::SetTssAddr, true),
    ("KVM_CAP_SET_IDENTITY_MAP_ADDR", Cap::SetIdentityMapAddr, true),
    ("KVM_CAP_IRQCHIP", Cap::Irqchip, true),
    ("KVM_CAP_PIT2", Cap::Pit2, true),
    ("KVM_CAP_IOEVENTFD", Cap::Ioeventfd, true),
    ("KVM_CAP_IMMEDIATE_EXIT", Cap::ImmediateExit, true),
    ("KVM_CAP_TSC_DEADLINE_TIMER", Cap::TscDeadlineTimer, false),
];

/// How fast KVM runs the kernel of a guest.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// Nanoseconds that an instruction takes in ring 0 of a guest.
    pub guest: f64,
    /// Nanoseconds that the same instruction takes in this process.
    pub host: f64,
    /// Instructions that Linux kernels use and that this KVM could not run in ring 0 of a guest.
    pub missing: Vec<&'static str>,
}

impl Speed {
    /// How many times slower a guest's kernel is than this process.
    pub fn ratio(&self) -> f64 {
        self.guest / self.host
    }

    /// Whether KVM interprets guest kernels. The ratio shows it: where a processor runs guests, be it a real or an emulated
    /// one, guest and host code are equally fast, while an interpreter is thousands of times slower.
    pub fn is_interpreted(&self) -> bool {
        self.ratio() > 50.0
    }
}

impl Kvm {
    /// The capabilities that Coracle uses, and whether this KVM has them.
    pub fn capabilities(&self) -> Vec<Capability> {
        let capability = |&(name, cap, required)| Capability {
            name,
            required,
            present: self.0.check_extension(cap),
        };
        CAPABILITIES.iter().map(capability).collect()
    }

    /// Times instructions in ring 0 of a tiny guest, and tries out others. It takes some milliseconds.
    pub fn measure_speed(&self) -> Result<Speed, Error> {
        let mut guest = TinyGuest::new(self)?;
        guest.load(COUNT_DOWN)?;
        let guest_speed = nanoseconds(guest_time(&mut guest)?);
        let host_speed = nanoseconds(host_time());
        let mut missing = Vec::new();
        for &(name, code) in INSTRUCTIONS {
            guest.load(code)?;
            if guest.run(0)?.is_none() {
                missing.push(name);
            }
        }
        Ok(Speed {
            guest: guest_speed,
            host: host_speed,
            missing,
        })
    }
}

/// `again: dec ecx; jnz again; hlt`
const COUNT_DOWN: &[u8] = &[0xff, 0xc9, 0x75, 0xfc, 0xf4];
/// Instructions that an interpreter may not know, each followed by `hlt`.
const INSTRUCTIONS: &[(&str, &[u8])] = &[
    ("popcnt", &[0xf3, 0x0f, 0xb8, 0xc1, 0xf4]),
    ("cmpxchg16b", &[0x48, 0x0f, 0xc7, 0x0c, 0x24, 0xf4]),
    ("SSE", &[0x66, 0x0f, 0xef, 0xc0, 0xf4]),
];

/// Guest addresses of the tiny guest: page tables that map the first 2 MiB one to one, code, and data.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x4000;
const DATA: u64 = 0x5000;
const END: usize = 0x6000;

/// A guest with one vCPU in 64-bit mode, the mode that Linux runs in, and 24 KiB of memory.
struct TinyGuest {
    vcpu: Vcpu,
    // Declared after the vCPU and so dropped after it: the vCPU keeps the VM alive, and the VM uses this memory.
    memory: GuestMemoryMmap,
}

impl TinyGuest {
    fn new(kvm: &Kvm) -> Result<Self, Error> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), END)])
            .map_err(|error| failed(io::Error::other(error.to_string())))?;
        let present_writable = 0x3;
        let large_page = 0x80;
        for (address, entry) in [
            (PML4, PDPT | present_writable),
            (PDPT, PAGE_DIRECTORY | present_writable),
            (PAGE_DIRECTORY, large_page | present_writable),
        ] {
            memory
                .write_obj::<u64>(entry, GuestAddress(address))
                .map_err(out_of_memory)?;
        }

        let vm = kvm.create_vm()?;
        // SAFETY: the memory lives in the struct that owns the only vCPU and is dropped after it; `vm` itself is
        // dropped here.
        unsafe { vm.set_memory(&memory) }?;
        let vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid(&kvm.supported_cpuid()?)?;

        let mut special = vcpu.special_registers()?;
        let flat = |selector, type_| Segment {
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            s: 1,
            g: 1,
            ..Segment::default()
        };
        special.cs = Segment {
            l: 1,
            ..flat(0x8, 0xb)
        };
        let data = Segment {
            db: 1,
            ..flat(0x10, 0x3)
        };
        for segment in [
            &mut special.ds,
            &mut special.es,
            &mut special.fs,
            &mut special.gs,
            &mut special.ss,
        ] {
            *segment = data;
        }
        special.cr0 = 1 << 31 | 1 << 4 | 1; // paging, extension type, protection
        special.cr3 = PML4;
        special.cr4 = 1 << 10 | 1 << 9 | 1 << 5; // SSE exceptions, SSE, physical address extension
        special.efer = 1 << 10 | 1 << 8; // long mode active, enabled
        vcpu.set_special_registers(&special)?;
        Ok(Self { vcpu, memory })
    }

    fn load(&mut self, code: &[u8]) -> Result<(), Error> {
        self.memory
            .write_slice(code, GuestAddress(CODE))
            .map_err(out_of_memory)
    }

    /// Runs the code from its start to its `hlt`, and returns the time; none when it stopped before.
    fn run(&mut self, count: u64) -> Result<Option<Duration>, Error> {
        self.vcpu.set_registers(&Registers {
            rip: CODE,
            rcx: count,
            rsp: DATA,
            rflags: 1 << 1,
            ..Registers::default()
        })?;
        let start = Instant::now();
        loop {
            match self.vcpu.run().map_err(failed)? {
                Exit::Interrupted => (),
                Exit::Other { reason: KVM_EXIT_HLT } => return Ok(Some(start.elapsed())),
                _ => return Ok(None),
            }
        }
    }
}

/// The time of a countdown, and the number that it began with.
type Measurement = (Duration, u32);

/// Nanoseconds an instruction: each step of the countdown is two instructions.
fn nanoseconds((time, rounds): Measurement) -> f64 {
    time.as_nanos().max(1) as f64 / (f64::from(rounds) * 2.0)
}

/// Counts down from ever larger numbers, until the time to enter and leave the guest does not matter. Of three times it
/// takes the shortest, which the host's other work has disturbed least.
fn guest_time(guest: &mut TinyGuest) -> Result<Measurement, Error> {
    const ENOUGH: Duration = Duration::from_micros(400);
    let mut rounds: u32 = 128;
    loop {
        let mut fastest = Duration::MAX;
        for _ in 0..3 {
            let time = guest.run(rounds.into())?;
            let broken = || failed(io::Error::other("it did not come to its end"));
            fastest = fastest.min(time.ok_or_else(broken)?);
        }
        if fastest > ENOUGH || rounds >= 1 << 22 {
            return Ok((fastest, rounds));
        }
        rounds *= 8;
    }
}

fn host_time() -> Measurement {
    const ROUNDS: u32 = 1 << 17;
    let fastest = (0..3).map(|_| {
        let start = Instant::now();
        // SAFETY: the loop changes one register and the flags.
        unsafe {
            asm!("2:", "dec {0:e}", "jnz 2b", inout(reg) ROUNDS => _, options(nomem, nostack));
        }
        start.elapsed()
    });
    (fastest.min().unwrap_or(Duration::MAX), ROUNDS)
}

fn failed(source: io::Error) -> Error {
    Error::Call {
        what: "run a test guest",
        source,
    }
}

fn out_of_memory(error: GuestMemoryError) -> Error {
    failed(io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(guest: f64, host: f64) -> Speed {
        Speed {
            guest,
            host,
            missing: Vec::new(),
        }
    }

    #[test]
    fn a_guest_as_fast_as_its_host_is_not_interpreted_however_slow_both_are() {
        assert!(!speed(0.3, 0.3).is_interpreted());
        assert!(!speed(45.0, 20.0).is_interpreted());
    }

    #[test]
    fn a_guest_thousands_of_times_slower_is_interpreted() {
        assert!(speed(2000.0, 0.35).is_interpreted());
    }

    #[test]
    fn the_host_counts_down_in_a_measurable_time() {
        let speed = nanoseconds(host_time());
        assert!(speed > 0.0 && speed < 10_000.0, "{speed}");
    }
}
