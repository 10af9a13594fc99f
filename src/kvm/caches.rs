//! Adds to the CPUID leaves of KVM the one that some versions leave empty: the first-level caches and TLBs of AMD's
//! processors (AMD APM volume 3, appendix E.4.4).
//!
//! KVM of Linux 6.1 lists that leaf with zeros only. On processors of family 0x15 (Bulldozer to Excavator) Linux divides by
//! the number of ways that the leaf names, so that with zeros every guest there would end before its first line.

use std::arch::x86_64::__cpuid;

use super::{CpuId, CpuIdEntry};

const FIRST_LEVEL_CACHES: u32 = 0x8000_0005;

/// Fills the leaf from this host's processor, if KVM lists it without a value. On a processor by Intel it stays empty.
pub fn fill(cpuid: &mut CpuId) {
    fill_from(cpuid, || {
        let leaf = __cpuid(FIRST_LEVEL_CACHES);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    });
}

fn fill_from(cpuid: &mut CpuId, processor: impl FnOnce() -> [u32; 4]) {
    let is_empty = |entry: &&mut CpuIdEntry| {
        entry.function == FIRST_LEVEL_CACHES && [entry.eax, entry.ebx, entry.ecx, entry.edx] == [0; 4]
    };
    if let Some(entry) = cpuid.as_mut_slice().iter_mut().find(is_empty) {
        [entry.eax, entry.ebx, entry.ecx, entry.edx] = processor();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_THE_PROCESSOR: [u32; 4] = [0xff20_ff18, 0xff20_ff30, 0x1004_0140, 0x4002_0140];

    /// What a guest reads in the leaf when KVM lists `listed` for it and for the leaf before.
    fn shown(listed: [u32; 4]) -> [u32; 4] {
        let [eax, ebx, ecx, edx] = listed;
        let entry = |function| CpuIdEntry {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        let entries = [entry(FIRST_LEVEL_CACHES - 1), entry(FIRST_LEVEL_CACHES)];
        let mut cpuid = CpuId::from_entries(&entries).unwrap();
        fill_from(&mut cpuid, || OF_THE_PROCESSOR);
        let [before, leaf] = cpuid.as_slice() else {
            panic!()
        };
        assert_eq!([before.eax, before.ebx, before.ecx, before.edx], listed);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    }

    #[test]
    fn a_leaf_that_kvm_lists_without_a_value_is_the_processors() {
        assert_eq!(shown([0; 4]), OF_THE_PROCESSOR);
    }

    #[test]
    fn a_leaf_that_kvm_knows_stays_as_it_is() {
        assert_eq!(shown([0, 0, 0x2008_0140, 0]), [0, 0, 0x2008_0140, 0]);
    }

    #[test]
    fn a_leaf_that_kvm_does_not_list_is_not_added() {
        let mut cpuid = CpuId::from_entries(&[]).unwrap();
        fill_from(&mut cpuid, || OF_THE_PROCESSOR);
        assert!(cpuid.as_slice().is_empty());
    }
}
