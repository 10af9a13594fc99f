use super::*;

fn entry(function: u32, index: u32) -> CpuIdEntry {
    CpuIdEntry {
        function,
        index,
        eax: u32::MAX,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
        ..Default::default()
    }
}

fn with_topology(entries: &[CpuIdEntry], cpu: u8, cpus: u8) -> Vec<CpuIdEntry> {
    let mut cpuid = CpuId::from_entries(entries).unwrap();
    set_topology(
        &mut cpuid,
        Topology {
            cpu,
            cpus,
            tsc_deadline_timer: true,
        },
    );
    cpuid.as_slice().to_vec()
}

#[test]
fn each_cpu_is_a_core_with_its_own_id() {
    let leaves = with_topology(&[entry(1, 0), entry(0xb, 0)], 5, 6);
    assert_eq!(leaves[0].ebx >> 16, 5 << 8 | 6);
    assert_eq!(
        (leaves[1].eax, leaves[1].ebx, leaves[1].ecx, leaves[1].edx),
        (0, 1, 0x100, 5)
    );
    assert_eq!(
        (leaves[2].eax, leaves[2].ebx, leaves[2].ecx, leaves[2].edx),
        (3, 6, 0x201, 5)
    );
    assert_eq!((leaves[3].ebx, leaves[3].ecx), (0, 2));
}

#[test]
fn one_cpu_shows_no_hyper_threading() {
    assert_eq!(with_topology(&[entry(1, 0)], 0, 1)[0].edx & FEATURES_EDX_HTT, 0);
    assert_ne!(with_topology(&[entry(1, 0)], 0, 2)[0].edx & FEATURES_EDX_HTT, 0);
}

#[test]
fn the_last_level_cache_is_shared_and_the_first_is_not() {
    let l1 = CpuIdEntry {
        eax: 1 << 5 | 1,
        ..entry(4, 0)
    };
    let l3 = CpuIdEntry {
        eax: 3 << 5 | 1,
        ..entry(4, 2)
    };
    let leaves = with_topology(&[l1, l3], 0, 8);
    assert_eq!(leaves[0].eax >> 14 & 0xfff, 0);
    assert_eq!(leaves[1].eax >> 14 & 0xfff, 7);
    assert_eq!(leaves[0].eax >> 26, 7);
}

#[test]
fn a_processor_of_amd_counts_its_cores() {
    let leaves = with_topology(&[entry(SIZES_AMD, 0), entry(TOPOLOGY_AMD, 0)], 3, 4);
    assert_eq!(leaves[0].ecx & 0xf0ff, 2 << 12 | 3);
    assert_eq!((leaves[1].eax, leaves[1].ebx), (3, 3));
}
