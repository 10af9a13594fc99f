use proptest::prelude::*;

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

/// Leaf 0 of a processor by this vendor.
fn vendor(name: &[u8; 12]) -> CpuIdEntry {
    let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
    CpuIdEntry {
        ebx: word(0),
        edx: word(4),
        ecx: word(8),
        ..entry(VENDOR, 0)
    }
}

#[test]
fn a_processor_of_amd_counts_its_cores() {
    for name in [b"AuthenticAMD", b"HygonGenuine"] {
        let leaves = with_topology(&[vendor(name), entry(SIZES_AMD, 0), entry(TOPOLOGY_AMD, 0)], 3, 4);
        assert_eq!(leaves[1].ecx & 0xf0ff, 2 << 12 | 3);
        assert_eq!((leaves[2].eax, leaves[2].ebx), (3, 3));
    }
}

#[test]
fn a_processor_of_intel_has_what_kvm_gives_where_amd_counts_cores() {
    let sizes = CpuIdEntry {
        ecx: 0,
        ..entry(SIZES_AMD, 0)
    };
    assert_eq!(with_topology(&[vendor(b"GenuineIntel"), sizes], 3, 4)[1].ecx, 0);
}

#[test]
fn a_cache_of_amd_is_shared_by_all_processors_from_the_third_level_on() {
    // Level 1, level 3, and the end of the list.
    let caches = [(0, 1 << 5 | 1), (3, 3 << 5 | 3), (4, 0)];
    let caches = caches.map(|(index, eax)| CpuIdEntry {
        eax: eax | 0xfff << 14,
        ..entry(CACHES_AMD, index)
    });
    let leaves = with_topology(&caches, 2, 6);
    let sharing: Vec<u32> = leaves.iter().map(|leaf| leaf.eax >> 14 & 0xfff).collect();
    // The end of the list, by its type 0, is left alone.
    assert_eq!(sharing, [0, 5, 0xfff]);
    let kinds: Vec<u32> = leaves.iter().map(|leaf| leaf.eax & 0x3fff).collect();
    assert_eq!(
        kinds,
        [1 << 5 | 1, 3 << 5 | 3, 0],
        "type and level are the cache's own"
    );
    assert!(
        leaves
            .iter()
            .all(|leaf| leaf.ebx == u32::MAX && leaf.ecx == u32::MAX && leaf.edx == u32::MAX),
        "sizes are the cache's own"
    );
}

#[test]
fn a_single_processor_of_amd_shares_no_cache() {
    let l3 = CpuIdEntry {
        eax: 0xfff << 14 | 3 << 5 | 3,
        ..entry(CACHES_AMD, 3)
    };
    assert_eq!(with_topology(&[l3], 0, 1)[0].eax, 3 << 5 | 3);
}

#[test]
fn a_cache_of_intel_is_shared_likewise_and_names_the_cores() {
    let caches = [
        (0, 1 << 5 | 1),
        (1, 1 << 5 | 2),
        (2, 2 << 5 | 3),
        (3, 3 << 5 | 3),
        (4, 0),
    ];
    let caches = caches.map(|(index, eax)| CpuIdEntry {
        eax: eax | 0x3f << 26 | 0xfff << 14,
        ..entry(CACHES_INTEL, index)
    });
    let leaves = with_topology(&caches, 1, 4);
    let told: Vec<(u32, u32)> = leaves
        .iter()
        .map(|leaf| (leaf.eax >> 14 & 0xfff, leaf.eax >> 26))
        .collect();
    assert_eq!(told, [(0, 3), (0, 3), (0, 3), (3, 3), (0xfff, 0x3f)]);
}

#[test]
fn both_versions_of_the_topology_leaf_tell_the_same_levels() {
    // KVM lists one subleaf of each.
    let leaves = with_topology(&[entry(0x1f, 0), entry(0xb, 0)], 2, 3);
    for function in TOPOLOGY {
        let levels: Vec<_> = leaves
            .iter()
            .filter(|leaf| leaf.function == function)
            .map(|leaf| (leaf.index, leaf.flags, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx))
            .collect();
        let flag = CPUID_FLAG_SIGNIFICANT_INDEX;
        assert_eq!(
            levels,
            [
                (0, flag, 0, 1, 0x100, 2),
                (1, flag, 2, 3, 0x201, 2),
                (2, flag, 0, 0, 2, 2)
            ],
            "leaf {function:#x}"
        );
    }
    assert!(
        with_topology(&[entry(0xb, 0)], 0, 1)
            .iter()
            .all(|leaf| leaf.function == 0xb)
    );
}

fn show(entries: &[CpuIdEntry], cpu: &str) -> Result<Vec<CpuIdEntry>, NotOffered> {
    let supported = CpuId::from_entries(entries).unwrap();
    shown(&supported, cpu.parse().unwrap()).map(|shown| shown.as_slice().to_vec())
}

fn find(entries: &[CpuIdEntry], function: u32, index: u32) -> Option<&CpuIdEntry> {
    entries
        .iter()
        .find(|entry| entry.function == function && entry.index == index)
}

/// What a KVM offers that supports everything.
fn everything() -> Vec<CpuIdEntry> {
    let standard = (0..=0x24).map(|leaf| entry(leaf, 0));
    let kvm = (0..=0x10).map(|leaf| entry(0x4000_0000 + leaf, 0));
    let extended = (0..=0x26).map(|leaf| entry(0x8000_0000 + leaf, 0));
    let subleaves = [(0x7, 3), (0xd, 19), (0x10, 3), (0x12, 3), (0x14, 1)]
        .into_iter()
        .flat_map(|(leaf, last)| (1..=last).map(move |index| entry(leaf, index)));
    standard.chain(kvm).chain(extended).chain(subleaves).collect()
}

#[test]
fn virtualization_and_counters_are_shown_to_whom_asked_for_them() {
    for (cpu, vmx, svm, counters) in [
        ("host", false, false, false),
        ("host,+vmx", true, false, false),
        ("host,+svm", false, true, false),
        ("host,+pmu", false, false, true),
        ("host,-vmx,+svm,+pmu", false, true, true),
    ] {
        let leaves = show(&everything(), cpu).unwrap();
        let features = find(&leaves, FEATURES, 0).unwrap();
        let features_amd = find(&leaves, FEATURES_AMD, 0).unwrap();
        assert_eq!(features.ecx & FEATURES_ECX_VMX != 0, vmx, "{cpu}");
        assert_eq!(features_amd.ecx & FEATURES_AMD_ECX_SVM != 0, svm, "{cpu}");
        assert_eq!(find(&leaves, 0x8000_000a, 0).is_some(), svm, "{cpu}");
        assert_eq!(
            features_amd.ecx & FEATURES_AMD_ECX_COUNTERS != 0,
            counters,
            "{cpu}"
        );
        assert_eq!(features.ecx >> 15 & 1 != 0, counters, "{cpu}");
        assert_eq!(find(&leaves, COUNTERS, 0).is_some(), counters, "{cpu}");
        assert_eq!(find(&leaves, 0x8000_0022, 0).is_some(), counters, "{cpu}");
    }
}

#[test]
fn a_feature_that_kvm_lacks_is_refused_by_name() {
    for name in ["vmx", "svm", "pmu"] {
        let error = show(&[entry(0, 0)], &format!("host,+{name}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("no {name} for guests")), "{error}");
        assert!(error.contains(&format!("leave +{name} out")), "{error}");
    }
}

#[test]
fn what_the_host_keeps_to_itself_is_hidden() {
    let leaves = show(&everything(), "host,+vmx,+svm,+pmu").unwrap();
    // MONITOR, power, SGX, processor trace, AMX, AVX10, KVM's unused leaves, encrypted memory, sampling, topology of
    // the host.
    for hidden in [
        0x5,
        0xf,
        0x10,
        0x12,
        0x14,
        0x15,
        0x1d,
        0x1e,
        0x24,
        0x4000_0010,
        0x8000_001b,
        0x8000_001f,
        0x8000_0026,
    ] {
        assert!(leaves.iter().all(|entry| entry.function != hidden), "{hidden:#x}");
    }
    let monitor = find(&leaves, FEATURES, 0).unwrap().ecx >> 3 & 1;
    let features = find(&leaves, EXTENDED_FEATURES, 0).unwrap();
    let (sgx, trace, amx) = (
        features.ebx >> 2 & 1,
        features.ebx >> 25 & 1,
        features.edx >> 24 & 1,
    );
    assert_eq!([monitor, sgx, trace, amx], [0; 4]);
}

#[test]
fn limits_are_those_of_what_is_shown() {
    let leaves = show(&everything(), "host").unwrap();
    assert_eq!(find(&leaves, 0, 0).unwrap().eax, 0x1f);
    assert_eq!(find(&leaves, 0x4000_0000, 0).unwrap().eax, 0x4000_0001);
    assert_eq!(find(&leaves, 0x8000_0000, 0).unwrap().eax, 0x8000_0021);
    assert_eq!(find(&leaves, 7, 0).unwrap().eax, 2);
    // A limit that is lower stays.
    let low = CpuIdEntry {
        eax: 4,
        ..entry(0, 0)
    };
    assert_eq!(
        find(&show(&[low, entry(0xb, 0)], "host").unwrap(), 0, 0)
            .unwrap()
            .eax,
        4
    );
}

#[test]
fn the_save_area_has_room_for_the_states_that_are_shown_and_no_more() {
    let state = |index, place, size| CpuIdEntry {
        eax: size,
        ebx: place,
        ecx: 0,
        edx: 0,
        ..entry(XSAVE, index)
    };
    // AVX, protection keys, and the tiles of AMX.
    let offered = [
        entry(FEATURES, 0),
        entry(XSAVE, 0),
        entry(XSAVE, 1),
        state(2, 576, 256),
        state(9, 2688, 8),
        state(18, 2816, 8192),
    ];
    let leaves = show(&offered, "host").unwrap();
    let summary = find(&leaves, XSAVE, 0).unwrap();
    assert_eq!((summary.eax, summary.ecx, summary.edx), (0b10_1110_0111, 2696, 0));
    assert!(find(&leaves, XSAVE, 18).is_none());
    assert_eq!(find(&leaves, XSAVE, 2).unwrap().ebx, 576);
    let details = find(&leaves, XSAVE, 1).unwrap();
    assert_eq!((details.eax, details.ecx, details.edx), (0xf, 0, 0));
    assert_eq!(
        find(
            &show(&[entry(FEATURES, 0), entry(XSAVE, 0)], "host").unwrap(),
            XSAVE,
            0
        )
        .unwrap()
        .ecx,
        576
    );
}

#[test]
fn a_processor_of_amd_has_no_msr_of_intels_for_its_defences() {
    for (name, shown) in [
        (b"GenuineIntel", EXTENDED_FEATURES_EDX_ARCH_CAPABILITIES),
        (b"AuthenticAMD", 0),
        (b"HygonGenuine", 0),
    ] {
        let leaves = show(&[vendor(name), entry(EXTENDED_FEATURES, 0)], "host").unwrap();
        let defences = find(&leaves, EXTENDED_FEATURES, 0).unwrap().edx;
        assert_eq!(defences & EXTENDED_FEATURES_EDX_ARCH_CAPABILITIES, shown);
        assert_ne!(defences, shown, "only that bit differs");
    }
}

#[test]
fn where_there_is_no_xsave_its_leaf_is_not_shown() {
    let features = CpuIdEntry {
        ecx: !FEATURES_ECX_XSAVE,
        ..entry(FEATURES, 0)
    };
    let highest = entry(0, 0);
    let leaves = show(&[highest, features, entry(XSAVE, 0), entry(XSAVE, 1)], "host").unwrap();
    assert!(leaves.iter().all(|entry| entry.function != XSAVE));
    assert_eq!(find(&leaves, 0, 0).unwrap().eax, 1, "the highest leaf");
}

#[test]
fn every_row_has_a_reason_and_every_whole_leaf_stands_once() {
    assert!(LEAVES.iter().all(|row| !row.why.is_empty() && row.bits != [0; 4]));
    for (index, row) in LEAVES.iter().enumerate() {
        for other in &LEAVES[..index] {
            let same = row.leaves == other.leaves && row.subleaf == other.subleaf;
            let overlap = row
                .bits
                .iter()
                .zip(other.bits)
                .any(|(bits, others)| bits & others != 0);
            assert!(!(same && overlap), "{row:?} and {other:?}");
        }
    }
}

fn any_entry() -> impl Strategy<Value = CpuIdEntry> {
    let leaf = (
        prop_oneof![Just(0), Just(0x4000_0000), Just(0x8000_0000), Just(0xc000_0000)],
        0u32..0x40,
    )
        .prop_map(|(range, leaf)| range + leaf);
    (prop_oneof![leaf, any::<u32>()], 0u32..20, any::<[u32; 4]>()).prop_map(
        |(function, index, [eax, ebx, ecx, edx])| CpuIdEntry {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        },
    )
}

proptest! {
    #[test]
    fn nothing_is_shown_that_no_row_allows_or_kvm_does_not_offer(
        offered in proptest::collection::vec(any_entry(), 0..80),
        wanted in "host(,[+-]vmx)?(,[+-]svm)?(,[+-]pmu)?",
    ) {
        let cpu: Cpu = wanted.parse().unwrap();
        let Ok(shown) = show(&offered, &wanted) else { return Ok(()) };
        for entry in &shown {
            let registers = [entry.eax, entry.ebx, entry.ecx, entry.edx];
            let mut allowed = [0; 4];
            for row in LEAVES {
                let of_entry = row.leaves.contains(&entry.function)
                    && (row.subleaf == Subleaf::Any || row.subleaf == Subleaf::Only(entry.index))
                    && row.only_with.is_none_or(|feature| cpu.has(feature));
                if of_entry {
                    (0..4).for_each(|register| allowed[register] |= row.bits[register]);
                }
            }
            prop_assert_ne!(allowed, [0; 4], "leaf {:#x} is in no row", entry.function);
            let kvm = offered.iter().find(|kvm| kvm.function == entry.function && kvm.index == entry.index);
            prop_assert!(kvm.is_some());
            for register in 0..4 {
                prop_assert_eq!(registers[register] & !allowed[register] & !limit(entry, register), 0);
            }
        }
    }
}

/// Registers that hold a number and no bits.
fn limit(entry: &CpuIdEntry, register: usize) -> u32 {
    let is_limit = match (entry.function, entry.index) {
        (0 | 0x4000_0000 | 0x8000_0000 | 7, 0) => register == 0,
        (XSAVE, 0) => register == 2,
        _ => false,
    };
    if is_limit { u32::MAX } else { 0 }
}
