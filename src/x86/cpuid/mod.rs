//! The CPUID leaves of one vCPU: what KVM supports and the table in `leaves.rs` allows, with this machine's topology
//! written in.
//!
//! Every vCPU is a core of its own in one package, and its APIC ID is its index.

/// What a guest sees, and why.
mod leaves;

use std::array;

use crate::config::{Cpu, CpuFeature};
use crate::kvm::{CpuId, CpuIdEntry};
use leaves::{LEAVES, Row, Subleaf};

/// The highest leaf, and the vendor's name in EBX, EDX and ECX.
const VENDOR: u32 = 0x0;
const FEATURES: u32 = 0x1;
const FEATURES_ECX_VMX: u32 = 1 << 5;
const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_ECX_XSAVE: u32 = 1 << 26;
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
/// Intel: performance counters.
const COUNTERS: u32 = 0xa;
/// AMD: features.
const FEATURES_AMD: u32 = 0x8000_0001;
const FEATURES_AMD_ECX_SVM: u32 = 1 << 2;
const FEATURES_AMD_ECX_COUNTERS: u32 = 1 << 23;
/// AMD: address sizes and core count.
const SIZES_AMD: u32 = 0x8000_0008;
/// AMD: cache topology, a subleaf a cache.
const CACHES_AMD: u32 = 0x8000_001d;
/// AMD: extended APIC ID, core and node.
const TOPOLOGY_AMD: u32 = 0x8000_001e;

/// Extended features, whose first subleaf says how many there are.
const EXTENDED_FEATURES: u32 = 0x7;
const EXTENDED_FEATURES_EDX_ARCH_CAPABILITIES: u32 = 1 << 29;
/// XSAVE: its states, and from subleaf 2 on where in the save area each of them is.
const XSAVE: u32 = 0xd;
/// Size of the save area's oldest part and its header (Intel SDM volume 1, section 13.4).
const SAVE_AREA_MIN: u32 = 576;
/// The first leaf of each range, whose EAX is the highest leaf of the range: standard, hypervisor's, extended.
const RANGES: [u32; 3] = [0, 0x4000_0000, 0x8000_0000];

/// The person asked for a feature that KVM does not offer on this host.
#[derive(Debug, thiserror::Error)]
#[error("this host's KVM has no {} for guests ({})", .0.name(), advice(*.0))]
pub struct NotOffered(CpuFeature);

fn advice(feature: CpuFeature) -> &'static str {
    match feature {
        CpuFeature::Vmx => {
            "only processors by Intel have vmx, with `nested=1` of the module kvm_intel; or leave +vmx out"
        }
        CpuFeature::Svm => {
            "only processors by AMD have svm, with `nested=1` of the module kvm_amd; or leave +svm out"
        }
        CpuFeature::Pmu => {
            "it needs a processor with performance counters, and `enable_pmu=1` of the module kvm; or leave +pmu out"
        }
    }
}

/// What `cpu` shows of the leaves that KVM supports: rows of the table, and nothing else.
pub fn shown(supported: &CpuId, cpu: Cpu) -> Result<CpuId, NotOffered> {
    if let Some(missing) = cpu.added().find(|&feature| !is_offered(supported, feature)) {
        return Err(NotOffered(missing));
    }
    let mut shown = supported.clone();
    shown.retain(|entry| allowed(entry, cpu).is_some());
    for entry in shown.as_mut_slice() {
        let [eax, ebx, ecx, edx] = allowed(entry, cpu).unwrap_or_default();
        entry.eax &= eax;
        entry.ebx &= ebx;
        entry.ecx &= ecx;
        entry.edx &= edx;
    }
    if is_amd(&shown) {
        for entry in shown.as_mut_slice() {
            if entry.function == EXTENDED_FEATURES && entry.index == 0 {
                // An MSR of Intel's, which KVM offers on every processor. Kernels do not expect it on this one.
                entry.edx &= !EXTENDED_FEATURES_EDX_ARCH_CAPABILITIES;
            }
        }
    }
    let has_xsave = |entry: &CpuIdEntry| entry.function == FEATURES && entry.ecx & FEATURES_ECX_XSAVE != 0;
    if !shown.as_slice().iter().any(has_xsave) {
        // KVM lists the leaf also where it offers no XSAVE.
        shown.retain(|entry| entry.function != XSAVE);
    }
    lower_limits(&mut shown);
    if log::log_enabled!(log::Level::Trace) {
        tell_reasons(&shown, cpu);
    }
    Ok(shown)
}

/// The bits of EAX, EBX, ECX and EDX that a guest sees of an entry; none when it does not see the entry at all.
fn allowed(entry: &CpuIdEntry, cpu: Cpu) -> Option<[u32; 4]> {
    rows(entry, cpu)
        .map(|row| row.bits)
        .reduce(|one, other| array::from_fn(|register| one[register] | other[register]))
}

/// The table's rows about an entry.
fn rows(entry: &CpuIdEntry, cpu: Cpu) -> impl Iterator<Item = &'static Row> {
    let (leaf, subleaf) = (entry.function, entry.index);
    LEAVES.iter().filter(move |row| {
        row.leaves.contains(&leaf)
            && (row.subleaf == Subleaf::Any || row.subleaf == Subleaf::Only(subleaf))
            && row.only_with.is_none_or(|feature| cpu.has(feature))
    })
}

/// Logs what a guest sees, and why.
fn tell_reasons(shown: &CpuId, cpu: Cpu) {
    for entry in shown.as_slice() {
        let registers = [entry.eax, entry.ebx, entry.ecx, entry.edx];
        for row in rows(entry, cpu) {
            let bits: [u32; 4] = array::from_fn(|register| registers[register] & row.bits[register]);
            if bits != [0; 4] {
                let (leaf, subleaf, why) = (entry.function, entry.index, row.why);
                log::trace!("CPUID leaf {leaf:#x}, subleaf {subleaf}: {bits:x?}: {why}");
            }
        }
    }
}

fn is_offered(supported: &CpuId, feature: CpuFeature) -> bool {
    let entry = |leaf| {
        supported
            .as_slice()
            .iter()
            .find(move |entry| entry.function == leaf)
    };
    match feature {
        CpuFeature::Vmx => entry(FEATURES).is_some_and(|entry| entry.ecx & FEATURES_ECX_VMX != 0),
        CpuFeature::Svm => entry(FEATURES_AMD).is_some_and(|entry| entry.ecx & FEATURES_AMD_ECX_SVM != 0),
        // Intel: the counters' version. AMD: four counters are on every processor, and six if this bit says so.
        CpuFeature::Pmu => {
            entry(COUNTERS).is_some_and(|entry| entry.eax & 0xff != 0)
                || entry(FEATURES_AMD).is_some_and(|entry| entry.ecx & FEATURES_AMD_ECX_COUNTERS != 0)
        }
    }
}

/// Lowers the numbers of the highest leaf, the highest subleaf and the largest state to those that are left.
fn lower_limits(cpuid: &mut CpuId) {
    let entries = cpuid.as_slice().to_vec();
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (first, _) if RANGES.contains(&first) => {
                let of_range = |leaf: &u32| leaf >> 28 == first >> 28;
                let leaves = entries.iter().map(|entry| entry.function).filter(of_range);
                entry.eax = entry.eax.min(leaves.max().unwrap_or(first));
            }
            (EXTENDED_FEATURES, 0) => {
                let subleaves = entries
                    .iter()
                    .filter(|entry| entry.function == EXTENDED_FEATURES)
                    .map(|entry| entry.index);
                entry.eax = entry.eax.min(subleaves.max().unwrap_or(0));
            }
            (XSAVE, 0) => {
                let ends = entries
                    .iter()
                    .filter(|state| state.function == XSAVE && state.index >= 2)
                    .map(|state| state.ebx.saturating_add(state.eax));
                entry.ecx = entry.ecx.min(ends.max().unwrap_or(0).max(SAVE_AREA_MIN));
            }
            _ => (),
        }
    }
}

/// What a vCPU's leaves depend on.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    /// The vCPU's index and APIC ID, from 0.
    pub cpu: u8,
    /// Number of vCPUs, from 1.
    pub cpus: u8,
    /// Whether the local APIC's timer has TSC-deadline mode. KVM reports that separately from the leaves that it supports.
    pub tsc_deadline_timer: bool,
}

/// Writes the topology into the leaves that a guest sees.
pub fn set_topology(cpuid: &mut CpuId, topology: Topology) {
    let cpu = u32::from(topology.cpu);
    let cpus = u32::from(topology.cpus);
    let is_amd = is_amd(cpuid);
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
            // [7:0] cores less one, [15:12] bits of the APIC ID that number them. Intel has the bits reserved.
            SIZES_AMD if is_amd => entry.ecx = entry.ecx & !0xf0ff | id_bits(cpus) << 12 | (cpus - 1),
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

/// Whether the processor is AMD's, or Hygon's, which is of AMD's design.
fn is_amd(cpuid: &CpuId) -> bool {
    let vendor = cpuid.as_slice().iter().find(|entry| entry.function == VENDOR);
    vendor.is_some_and(|entry| {
        let name = [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes);
        [b"AuthenticAMD", b"HygonGenuine"]
            .iter()
            .any(|amd| name.as_flattened() == *amd)
    })
}

/// Replaces the one empty subleaf that KVM lists of each topology leaf by a subleaf for each level.
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
#[path = "mod_test.rs"]
mod tests;
