use super::*;
use crate::kvm::CpuIdEntry;

const GIB: u64 = 1 << 30;

fn host(sizes: u32) -> CpuId {
    let leaf = CpuIdEntry {
        function: ADDRESS_SIZES,
        eax: sizes,
        ..Default::default()
    };
    CpuId::from_entries(&[leaf]).unwrap()
}

#[test]
fn memory_fits_up_to_its_end_behind_the_hole_and_no_further() {
    for (sizes, fits) in [
        (0x3027, 511),
        (0x3024, 63),
        (0x0028, 1023),
        // The processor has 46 bits, of which KVM can give a guest 39.
        (0x27302e, 511),
    ] {
        let host = host(sizes);
        check_with(fits * GIB, &host).unwrap();
        let error = check_with(fits * GIB + 4096, &host).unwrap_err().to_string();
        assert!(error.contains(&format!("give it {fits}G or less")), "{error}");
    }
}

#[test]
fn half_a_tebibyte_does_not_fit_39_bits() {
    let error = check_with(512 * GIB, &host(0x3027)).unwrap_err().to_string();
    assert!(error.contains("39-bit addresses"), "{error}");
    assert!(error.contains("512 GiB"), "{error}");
    check_with(512 * GIB, &host(0x3028)).unwrap();
}

#[test]
fn a_host_that_says_nothing_has_36_bits() {
    assert_eq!(bits(&CpuId::from_entries(&[]).unwrap()), 36);
}
