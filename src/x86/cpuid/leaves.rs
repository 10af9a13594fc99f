//! The CPUID leaves and feature bits that a guest sees, each with the reason why.
//!
//! KVM offers all that it can emulate, and more with each version. A guest gets what this table allows and KVM offers;
//! every other bit reads as 0. Names are those of the Intel SDM (volume 2, CPUID) and the AMD APM (volume 3, appendix
//! E); leaf 0x40000001 is KVM's own (Linux, Documentation/virt/kvm/x86/cpuid.rst).
//!
//! Not in the table, and why:
//! - 0x1 ECX MONITOR, 0x5, 0x80000001 ECX MWAITX: a guest that waits that way would hold a processor of the host.
//! - 0x1 EDX DS, 0x7 EDX ARCH_LBR, 0x14, 0x1c, 0x23, 0x8000001b: tracing and sampling of the host's processor.
//! - 0x12 and its bits (SGX), 0x7 ECX KL and 0x19, 0x8000001f (encrypted memory): Coracle sets none of it up.
//! - 0x7 EDX AMX bits, 0x1d, 0x1e: a VMM must ask the host's kernel for permission before a guest uses so large a state.
//! - 0x7 ECX SHSTK, EDX IBT: a new part of KVM, which no test of Coracle's has run yet.
//! - 0x7 EBX MPX and PQM, 0xf, 0x10, 0x80000020: gone from processors, or the host's alone to set.
//! - 0x6 but ARAT, 0x7 EDX HYBRID, 0x15, 0x16, 0x1a, 0x80000026: they describe the host's hardware and its temperature.
//! - 0x40000001 MSI_EXT_DEST_ID, HC_MAP_GPA_RANGE, MIGRATION_CONTROL: Coracle would have to do a part of the work.
//! - Hyper-V's leaves: KVM emulates Hyper-V only if a VMM turns that on.

use std::ops::RangeInclusive;

use crate::config::CpuFeature;

/// Which entries of a leaf a row allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subleaf {
    /// All: the leaf has no subleaves, or is a list of caches or levels.
    Any,
    Only(u32),
}

/// A register that CPUID answers in, as the index of its bits in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

use Register::{Eax, Ebx, Ecx, Edx};
use Subleaf::{Any, Only};

/// Bits that a guest sees if KVM offers them.
#[derive(Debug, Clone)]
pub struct Row {
    pub leaves: RangeInclusive<u32>,
    pub subleaf: Subleaf,
    /// The bits of EAX, EBX, ECX and EDX.
    pub bits: [u32; 4],
    /// The feature that the person must have asked for.
    pub only_with: Option<CpuFeature>,
    /// Why a guest sees them.
    pub why: &'static str,
}

/// All bits of all registers.
const fn whole(leaves: RangeInclusive<u32>, why: &'static str) -> Row {
    Row {
        leaves,
        subleaf: Any,
        bits: [u32::MAX; 4],
        only_with: None,
        why,
    }
}

/// Some bits of one register.
const fn some(leaf: u32, subleaf: Subleaf, register: Register, bits: u32, why: &'static str) -> Row {
    let mut registers = [0; 4];
    registers[register as usize] = bits;
    Row {
        leaves: leaf..=leaf,
        subleaf,
        bits: registers,
        only_with: None,
        why,
    }
}

impl Row {
    const fn of_subleaf(mut self, index: u32) -> Self {
        self.subleaf = Only(index);
        self
    }

    const fn only_with(mut self, feature: CpuFeature) -> Self {
        self.only_with = Some(feature);
        self
    }
}

/// A mask of bits, by their numbers.
const fn bits<const COUNT: usize>(numbers: [u32; COUNT]) -> u32 {
    let mut mask = 0;
    let mut index = 0;
    while index < COUNT {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}

const ALL: u32 = u32::MAX;

/// The states that XSAVE saves and a guest may use, as bits of XCR0: x87, SSE, AVX, three of AVX-512, protection keys.
/// They are those of the instructions that are shown: any other state would make every task's save area larger.
const XSAVE_STATES: u32 = bits([0, 1, 2, 5, 6, 7, 9]);

const INSTRUCTIONS: &str = "instructions that programs use";
const KERNELS: &str = "what kernels use, and KVM or the processor does alone";
const SPECULATION: &str = "defences against attacks by speculative execution";
const COMMON: &str = "what every 64-bit processor has";
const HIGHEST: &str = "the highest leaf, which is then lowered to the highest that is shown";
const TOPOLOGY: &str = "topology, which this machine's own replaces";
const SAVE_AREA: &str = "where in the save area the state is";
const COUNTERS: &str = "performance counters";

/// What a guest sees.
pub static LEAVES: &[Row] = &[
    some(0x0, Any, Eax, ALL, HIGHEST),
    some(0x0, Any, Ebx, ALL, "the vendor"),
    some(0x0, Any, Ecx, ALL, "the vendor"),
    some(0x0, Any, Edx, ALL, "the vendor"),
    some(
        0x1,
        Any,
        Eax,
        ALL,
        "family, model, stepping: kernels know errata by them",
    ),
    some(
        0x1,
        Any,
        Ebx,
        ALL,
        "the size of a cache line; topology, which is replaced",
    ),
    // SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, AVX, F16C, RDRAND
    some(
        0x1,
        Any,
        Ecx,
        bits([0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 28, 29, 30]),
        INSTRUCTIONS,
    ),
    // PCID, x2APIC, TSC deadline, XSAVE, OSXSAVE, hypervisor
    some(0x1, Any, Ecx, bits([17, 21, 24, 26, 27, 31]), KERNELS),
    some(0x1, Any, Ecx, bits([5]), "VMX").only_with(CpuFeature::Vmx),
    some(0x1, Any, Ecx, bits([15]), "PDCM: what the counters can do").only_with(CpuFeature::Pmu),
    // FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE-36, CLFSH, MMX, FXSR, SSE,
    // SSE2, SS, HTT
    some(
        0x1,
        Any,
        Edx,
        bits([
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27, 28,
        ]),
        COMMON,
    ),
    whole(0x2..=0x2, "Intel: descriptors of caches and TLBs"),
    whole(
        0x4..=0x4,
        "Intel: caches; which processors share them is replaced",
    ),
    some(
        0x6,
        Any,
        Eax,
        bits([2]),
        "ARAT: the local APIC's timer never stops",
    ),
    some(
        0x7,
        Only(0),
        Eax,
        ALL,
        "the highest subleaf, which is lowered likewise",
    ),
    // BMI1, HLE, AVX2, BMI2, ERMS, RTM, AVX512F, AVX512DQ, RDSEED, ADX, AVX512_IFMA, CLFLUSHOPT, CLWB, AVX512PF,
    // AVX512ER, AVX512CD, SHA, AVX512BW, AVX512VL
    some(
        0x7,
        Only(0),
        Ebx,
        bits([
            3, 4, 5, 8, 9, 11, 16, 17, 18, 19, 21, 23, 24, 26, 27, 28, 29, 30, 31,
        ]),
        INSTRUCTIONS,
    ),
    // FSGSBASE, TSC_ADJUST, FDP_EXCPTN_ONLY, SMEP, INVPCID, deprecates FPU CS and DS, SMAP
    some(0x7, Only(0), Ebx, bits([0, 1, 6, 7, 10, 13, 20]), KERNELS),
    // PREFETCHWT1, AVX512_VBMI, WAITPKG, AVX512_VBMI2, GFNI, VAES, VPCLMULQDQ, AVX512_VNNI, AVX512_BITALG,
    // AVX512_VPOPCNTDQ, RDPID, CLDEMOTE, MOVDIRI, MOVDIR64B
    some(
        0x7,
        Only(0),
        Ecx,
        bits([0, 1, 5, 6, 8, 9, 10, 11, 12, 14, 22, 25, 27, 28]),
        INSTRUCTIONS,
    ),
    // UMIP, PKU, OSPKE, LA57
    some(0x7, Only(0), Ecx, bits([2, 3, 4, 16]), KERNELS),
    // AVX512_4VNNIW, AVX512_4FMAPS, FSRM, AVX512_VP2INTERSECT, SERIALIZE, TSXLDTRK, AVX512_FP16
    some(0x7, Only(0), Edx, bits([2, 3, 4, 8, 14, 16, 23]), INSTRUCTIONS),
    // MD_CLEAR, IBRS and IBPB, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD
    some(0x7, Only(0), Edx, bits([10, 26, 27, 28, 29, 31]), SPECULATION),
    // SHA512, SM3, SM4, AVX-VNNI, AVX512_BF16, CMPCCXADD, fast REP MOVSB, fast REP STOSB, fast REP CMPSB, AVX-IFMA
    some(
        0x7,
        Only(1),
        Eax,
        bits([0, 1, 2, 4, 5, 7, 10, 11, 12, 23]),
        INSTRUCTIONS,
    ),
    // AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, PREFETCHI
    some(0x7, Only(1), Edx, bits([4, 5, 10, 14]), INSTRUCTIONS),
    // PSFD, IPRED_CTRL, RRSBA_CTRL, DDPD_U, BHI_CTRL, MCDT_NO
    some(0x7, Only(2), Edx, bits([0, 1, 2, 3, 4, 5]), SPECULATION),
    whole(0xa..=0xa, COUNTERS).only_with(CpuFeature::Pmu),
    whole(0xb..=0xb, TOPOLOGY),
    some(
        0xd,
        Only(0),
        Eax,
        XSAVE_STATES,
        "states of the instructions that are shown",
    ),
    some(
        0xd,
        Only(0),
        Ebx,
        ALL,
        "the save area's size, which KVM keeps up to date",
    ),
    some(
        0xd,
        Only(0),
        Ecx,
        ALL,
        "the save area's largest size, which is lowered to the states",
    ),
    // XSAVEOPT, XSAVEC, XGETBV with ECX = 1, XSAVES
    some(0xd, Only(1), Eax, bits([0, 1, 2, 3]), KERNELS),
    some(
        0xd,
        Only(1),
        Ebx,
        ALL,
        "the compacted area's size, which KVM keeps up to date",
    ),
    whole(0xd..=0xd, SAVE_AREA).of_subleaf(2),
    whole(0xd..=0xd, SAVE_AREA).of_subleaf(5),
    whole(0xd..=0xd, SAVE_AREA).of_subleaf(6),
    whole(0xd..=0xd, SAVE_AREA).of_subleaf(7),
    whole(0xd..=0xd, SAVE_AREA).of_subleaf(9),
    whole(0x1f..=0x1f, TOPOLOGY),
    some(0x4000_0000, Any, Eax, ALL, HIGHEST),
    some(0x4000_0000, Any, Ebx, ALL, "KVM's signature"),
    some(0x4000_0000, Any, Ecx, ALL, "KVM's signature"),
    some(0x4000_0000, Any, Edx, ALL, "KVM's signature"),
    // CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, ASYNC_PF, STEAL_TIME, PV_EOI, PV_UNHALT, PV_TLB_FLUSH, PV_SEND_IPI,
    // POLL_CONTROL, PV_SCHED_YIELD, ASYNC_PF_INT, CLOCKSOURCE_STABLE
    some(
        0x4000_0001,
        Any,
        Eax,
        bits([0, 1, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 24]),
        "clocks and shortcuts for guests, which KVM serves alone",
    ),
    some(0x8000_0000, Any, Eax, ALL, HIGHEST),
    some(0x8000_0000, Any, Ebx, ALL, "AMD: the vendor"),
    some(0x8000_0000, Any, Ecx, ALL, "AMD: the vendor"),
    some(0x8000_0000, Any, Edx, ALL, "AMD: the vendor"),
    some(0x8000_0001, Any, Eax, ALL, "AMD: family, model, stepping"),
    some(0x8000_0001, Any, Ebx, ALL, "AMD: brand and package"),
    // LahfSahf, CmpLegacy, AltMovCr8, ABM, SSE4A, MisAlignSse, 3DNowPrefetch, OSVW, XOP, FMA4, TBM, TopologyExtensions
    some(
        0x8000_0001,
        Any,
        Ecx,
        bits([0, 1, 4, 5, 6, 7, 8, 9, 11, 16, 21, 22]),
        "instructions that programs use; errata; that there are topology leaves",
    ),
    some(0x8000_0001, Any, Ecx, bits([2]), "SVM").only_with(CpuFeature::Svm),
    some(0x8000_0001, Any, Ecx, bits([23]), COUNTERS).only_with(CpuFeature::Pmu),
    // Those of leaf 1 that AMD repeats; SYSCALL, NX, MMXEXT, FFXSR, 1 GiB pages, RDTSCP, long mode, 3DNowExt, 3DNow
    some(
        0x8000_0001,
        Any,
        Edx,
        bits([
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 22, 23, 24, 25, 26, 27, 29, 30, 31,
        ]),
        COMMON,
    ),
    whole(0x8000_0002..=0x8000_0004, "the processor's name"),
    whole(0x8000_0005..=0x8000_0006, "sizes of caches and TLBs"),
    some(0x8000_0007, Any, Edx, bits([8]), "the TSC never changes its rate"),
    some(0x8000_0008, Any, Eax, ALL, "sizes of addresses"),
    // CLZERO, XSAVE of error pointers, WBNOINVD
    some(0x8000_0008, Any, Ebx, bits([0, 2, 9]), INSTRUCTIONS),
    // IBPB, IBRS, STIBP, IBRS and STIBP always on or preferred, IBRS same mode, SSBD, SSBD in VIRT_SPEC_CTRL, SSB_NO,
    // PSFD, BTC_NO, IBPB of return addresses
    some(
        0x8000_0008,
        Any,
        Ebx,
        bits([12, 14, 15, 16, 17, 18, 19, 24, 25, 26, 28, 29, 30]),
        SPECULATION,
    ),
    some(0x8000_0008, Any, Ecx, ALL, TOPOLOGY),
    whole(0x8000_000a..=0x8000_000a, "what SVM can do").only_with(CpuFeature::Svm),
    whole(0x8000_0019..=0x8000_0019, "AMD: TLBs of 1 GiB pages"),
    // FP128, MOVU, FP256
    some(
        0x8000_001a,
        Any,
        Eax,
        bits([0, 1, 2]),
        "AMD: which instructions are fast",
    ),
    whole(
        0x8000_001d..=0x8000_001d,
        "AMD: caches; which processors share them is replaced",
    ),
    whole(0x8000_001e..=0x8000_001e, TOPOLOGY),
    // No nested data breakpoints, LFENCE serializes, null selectors clear the base, automatic IBRS, PREFETCHI
    some(0x8000_0021, Any, Eax, bits([0, 2, 6, 8, 20]), KERNELS),
    // VERW clears buffers, SBPB, IBPB of branch types, SRSO_NO, SRSO between user and kernel
    some(0x8000_0021, Any, Eax, bits([5, 27, 28, 29, 30]), SPECULATION),
    // TSA_SQ_NO, TSA_L1_NO
    some(0x8000_0021, Any, Ecx, bits([1, 2]), SPECULATION),
    whole(0x8000_0022..=0x8000_0022, COUNTERS).only_with(CpuFeature::Pmu),
];
