//! The CPUID leaves of one vCPU: what KVM supports, with this machine's topology written in.
//!
//! Every vCPU is a core of its own in one package, and its APIC ID is its index.

use crate::kvm::{CpuId, CpuIdEntry};

const FEATURES: u32 = 0x1;
const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;
const FEATURES_EDX_HTT: u32 = 1 << 28;
/// Intel: deterministic cache parameters, a subleaf a cache.
const CACHES_INTEL: u32 = 0x4;
/// Extended topology, a subleaf a level; 0x1f is its second version.
const TOPOLOGY: [u32; 2] = [0xb, 0x1f];
const TOPOLOGY_LEVEL_SMT: u32 = 1;
const TOPOLOGY_LEVEL_CORE: u32 = 2;
/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: the leaf has subleaves, chosen by ECX.
const CPUID_FLAG_SIGNIFICANT_INDEX: u32 = 1;
/// AMD: address sizes and core count.
const SIZES_AMD: u32 = 0x8000_0008;
/// AMD: cache topology, a subleaf a cache.
const CACHES_AMD: u32 = 0x8000_001d;
/// AMD: extended APIC ID, core and node.
const TOPOLOGY_AMD: u32 = 0x8000_001e;

/// What a vCPU's leaves depend on.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    /// The vCPU's index and APIC ID, from 0.
    pub cpu: u8,
    /// Number of vCPUs, from 1.
    pub cpus: u8,
    /// Whether the local APIC's timer has TSC-deadline mode; KVM tells it beside its supported leaves.
    pub tsc_deadline_timer: bool,
}

/// Writes the topology into leaves that KVM supports.
pub fn set_topology(cpuid: &mut CpuId, topology: Topology) {
    let cpu = u32::from(topology.cpu);
    let cpus = u32::from(topology.cpus);
    add_levels(cpuid);
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            FEATURES => features(entry, topology),
            // An all-zero subleaf ends the list of caches.
            CACHES_INTEL if entry.eax & 0x1f != 0 => {
                let sharing = cache_sharing(entry.eax >> 5 & 0x7, cpus);
                // [25:14] logical processors that share the cache, [31:26] cores in the package; less one each.
                entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14 | (cpus - 1) << 26;
            }
            leaf if TOPOLOGY.contains(&leaf) => level(entry, cpu, cpus),
            // [7:0] cores less one, [15:12] bits of the APIC ID that number them.
            SIZES_AMD => entry.ecx = entry.ecx & !0xf0ff | id_bits(cpus) << 12 | (cpus - 1),
            CACHES_AMD if entry.eax & 0x1f != 0 => {
                let sharing = cache_sharing(entry.eax >> 5 & 0x7, cpus);
                entry.eax = entry.eax & !(0xfff << 14) | (sharing - 1) << 14;
            }
            TOPOLOGY_AMD => {
                entry.eax = cpu;
                // [7:0] core, [15:8] threads of it less one.
                entry.ebx = cpu;
                // [7:0] node, [10:8] nodes less one.
                entry.ecx = 0;
            }
            _ => (),
        }
    }
}

/// KVM supports the topology leaves, and lists an empty subleaf of each: a subleaf a level takes its place.
fn add_levels(cpuid: &mut CpuId) {
    for function in TOPOLOGY {
        if cpuid.as_slice().iter().all(|entry| entry.function != function) {
            continue;
        }
        cpuid.retain(|entry| entry.function != function);
        for index in 0..=2 {
            let entry = CpuIdEntry {
                function,
                index,
                flags: CPUID_FLAG_SIGNIFICANT_INDEX,
                ..Default::default()
            };
            if let Err(error) = cpuid.push(entry) {
                log::warn!("no room for a vCPU's topology in its CPUID leaves: {error:?}");
            }
        }
    }
}

fn features(entry: &mut CpuIdEntry, topology: Topology) {
    // [31:24] initial APIC ID, [23:16] logical processors in the package.
    entry.ebx = entry.ebx & 0xffff | u32::from(topology.cpu) << 24 | u32::from(topology.cpus) << 16;
    entry.ecx |= FEATURES_ECX_HYPERVISOR;
    set(
        &mut entry.ecx,
        FEATURES_ECX_TSC_DEADLINE,
        topology.tsc_deadline_timer,
    );
    set(&mut entry.edx, FEATURES_EDX_HTT, topology.cpus > 1);
}

/// A level of the extended topology: SMT with one thread, then the cores, then the end of the list.
fn level(entry: &mut CpuIdEntry, cpu: u32, cpus: u32) {
    let (shift, count, kind) = match entry.index {
        0 => (0, 1, TOPOLOGY_LEVEL_SMT),
        1 => (id_bits(cpus), cpus, TOPOLOGY_LEVEL_CORE),
        _ => (0, 0, 0),
    };
    entry.eax = shift;
    entry.ebx = count;
    entry.ecx = entry.index | kind << 8;
    entry.edx = cpu;
}

/// vCPUs that share a cache: all share the third level, none share the levels below.
fn cache_sharing(level: u32, cpus: u32) -> u32 {
    if level >= 3 { cpus } else { 1 }
}

/// Bits that APIC IDs from 0 to `cpus` - 1 take.
fn id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

#[cfg(test)]
#[path = "cpuid_test.rs"]
mod tests;
