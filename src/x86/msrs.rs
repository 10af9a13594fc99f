//! Model-specific registers that a guest expects set before its first instruction.

use crate::config::{Cpu, CpuFeature};
use crate::kvm::Msr;

const IA32_FEATURE_CONTROL: u32 = 0x3a;
const FEATURE_CONTROL_LOCKED: u64 = 1;
const FEATURE_CONTROL_VMX_OUTSIDE_SMX: u64 = 1 << 2;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// Intel SDM volume 4, table 2-2: whether there are performance counters, and no branch trace and no event sampling.
const MISC_ENABLE_COUNTERS: u64 = 1 << 7;
const MISC_ENABLE_NO_BRANCH_TRACE: u64 = 1 << 11;
const MISC_ENABLE_NO_EVENT_SAMPLING: u64 = 1 << 12;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// All memory is write-back, string instructions are fast, and what CPUID does not show is said to be missing here too;
/// everything else is as after a reset. VMX, where it is shown, is switched on, as firmware does that means it to be used:
/// Linux does without it otherwise (Intel SDM volume 3, section 24.7).
pub fn boot_msrs(cpu: Cpu) -> Vec<Msr> {
    let counters = match cpu.has(CpuFeature::Pmu) {
        true => MISC_ENABLE_COUNTERS,
        false => 0,
    };
    let msr = |index, data| Msr {
        index,
        data,
        ..Default::default()
    };
    let mut msrs = vec![
        msr(
            IA32_MISC_ENABLE,
            MISC_ENABLE_FAST_STRING | MISC_ENABLE_NO_BRANCH_TRACE | MISC_ENABLE_NO_EVENT_SAMPLING | counters,
        ),
        msr(IA32_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
    ];
    if cpu.has(CpuFeature::Vmx) {
        msrs.push(msr(
            IA32_FEATURE_CONTROL,
            FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX_OUTSIDE_SMX,
        ));
    }
    msrs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cpuid_hides_is_missing_here_too() {
        for (cpu, counters) in [("host", 0), ("host,+pmu", 1)] {
            let msrs = boot_msrs(cpu.parse().unwrap());
            let enabled = msrs
                .iter()
                .find(|msr| msr.index == IA32_MISC_ENABLE)
                .unwrap()
                .data;
            assert_eq!(enabled >> 7 & 1, counters, "{cpu}: performance counters");
            assert_eq!(enabled >> 18 & 1, 0, "{cpu}: MONITOR and MWAIT");
            assert_eq!(enabled >> 11 & 3, 3, "{cpu}: no branch trace, no event sampling");
        }
    }

    #[test]
    fn vmx_is_switched_on_where_it_is_shown_and_left_alone_elsewhere() {
        for (cpu, expected) in [("host", None), ("host,+svm", None), ("host,+vmx", Some(0b101))] {
            let msrs = boot_msrs(cpu.parse().unwrap());
            let control = msrs.iter().find(|msr| msr.index == IA32_FEATURE_CONTROL);
            assert_eq!(control.map(|msr| msr.data), expected, "{cpu}");
        }
    }
}
