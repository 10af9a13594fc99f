//! What KVM makes of the processor's hardware virtualization: tests of tests/kvm whose guests leave the processor in ways
//! that differ between vendors. `cargo test --test kvm` runs them on this host's KVM, which may have no such hardware.

use std::process::Command;

use coracle::kvm::{Exit, Kvm};
use libtest_mimic::{Failed, Trial};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::place;

/// Names of tests in tests/kvm.
const TESTS: &[&str] = &[
    "cpus::a_single_processor_is_alone",
    "cpus::four_processors_start_and_know_their_place",
    "cpus::neither_virtualization_nor_counters_are_shown_unless_asked_for",
    "cpus::a_feature_that_is_asked_for_is_shown_or_refused_by_name",
    "command_line::a_host_without_kvm_is_126_and_told_of_doctor",
    "ends::a_broken_stderr_changes_no_exit_code",
    "ends::a_page_fault_without_a_handler_is_a_triple_fault_and_110",
    "ends::a_power_off_out_of_32_bit_mode_is_0_and_silent",
    "ends::a_reset_boots_again_when_asked_to",
    "ends::an_exception_without_a_handler_is_a_triple_fault_and_110",
    "ends::a_triple_fault_names_where_it_was_or_no_place_at_all",
    "ends::an_instruction_that_kvm_cannot_emulate_is_111_with_its_bytes",
    "ends::two_processors_that_halt_are_113",
    "ends::sigterm_ends_a_guest_whose_other_processors_never_started",
    "entry::a_64_bit_kernel_finds_the_zero_page_and_its_command_line_at_rsi",
    "entry::a_pvh_kernel_finds_its_start_info_and_command_line_at_ebx",
    "entry::the_last_byte_of_memory_is_there",
    "hostile::random_writes_to_every_port_harm_nobody",
    "hostile::random_writes_to_every_register_of_a_disk_harm_nobody",
    "interrupts::a_disk_raises_its_line_at_the_io_apic_when_a_request_is_done",
    "interrupts::a_transmitter_that_is_empty_interrupts_through_the_pic",
    "nowhere::ports_of_no_device_read_as_all_ones_and_take_writes",
    "nowhere::a_string_read_from_nowhere_is_all_ones_and_no_longer_than_asked",
    "nowhere::addresses_of_no_device_read_as_all_ones_whatever_was_written_there",
    "pauses::a_machine_that_is_paused_twice_and_resumed_once_goes_on_with_its_disk",
    "registers::model_specific_registers_are_what_cpuid_promises",
    "registers::the_local_apic_in_x2apic_mode_has_the_vcpus_id",
    "registers::the_timer_interrupts_at_a_tsc_deadline",
    "stops::every_processor_of_a_guest_that_was_stopped_and_continued_learns_of_it",
    "timings::exits_are_counted_by_reason_and_address_and_by_phase",
    "virtio::a_disk_is_a_virtio_block_device_of_its_size_in_the_first_window",
    "virtio::a_read_by_hand_brings_the_sector",
    "virtio::a_write_by_hand_reaches_the_file_and_nothing_beside_it",
    "virtio::a_write_to_a_read_only_disk_is_an_io_error_and_changes_nothing",
    "virtio::an_unknown_request_is_unsupported",
    "virtio::requests_past_the_end_are_io_errors_and_change_nothing",
    "virtio::the_id_of_a_disk_is_what_its_flag_says",
];

pub fn trials() -> Vec<Trial> {
    let tests = TESTS
        .iter()
        .map(|name| Trial::test(format!("hardware::{name}"), || kvm_test(name)));
    tests.chain(refusal::trials()).collect()
}

/// Runs a test of tests/kvm.
pub fn kvm_test(name: &str) -> Result<(), Failed> {
    let output = Command::new(place::kvm_tests())
        .args(["--exact", name, "--include-ignored", "--test-threads", "1"])
        .output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // A name that no test has makes a run that succeeds with no test.
    match output.status.success() && said.contains("test result: ok. 1 passed") {
        true => Ok(()),
        false => Err(said.into()),
    }
}

mod refusal {
    use super::*;

    crate::group!["hardware":
        a_state_that_the_processor_does_not_allow_is_a_failed_entry_with_its_reason,
    ];

    /// 64-bit mode with a code segment that is of 32 bits, too (Intel SDM volume 3, section 27.3.1.2; AMD APM volume 2, section
    /// 15.5.1). A guest cannot get there, because KVM looks at what it does; KVM takes such a state from Coracle.
    fn a_state_that_the_processor_does_not_allow_is_a_failed_entry_with_its_reason() {
        const CR0: u64 = 1 << 31 | 1;
        const CR4_PAE: u64 = 1 << 5;
        const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
        const CODE: u8 = 0xb;
        let kvm = Kvm::open().unwrap();
        let vm = kvm.create_vm().unwrap();
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        // SAFETY: the memory is dropped last.
        unsafe { vm.set_memory(&memory) }.unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let mut registers = vcpu.special_registers().unwrap();
        registers.cr0 = CR0;
        registers.cr4 = CR4_PAE;
        registers.efer = EFER_LME_LMA;
        registers.cs.type_ = CODE;
        (registers.cs.l, registers.cs.db) = (1, 1);
        vcpu.set_special_registers(&registers).unwrap();
        let exit = vcpu.run().unwrap();
        // What diagnosis/mod.rs takes for a refused state: the reasons of Intel's and of AMD's processors.
        let reasons = [0x8000_0021, u32::MAX.into(), u64::MAX];
        assert!(
            matches!(exit, Exit::FailEntry { reason } if reasons.contains(&reason)),
            "{exit:x?}"
        );
        drop((vcpu, vm, memory));
    }
}
