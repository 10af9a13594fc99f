//! Trials that run on the Intel machine beside the AMD machines, because Coracle, KVM or the guest does something else
//! there, and one of each feature. Its processor is slow: what does not differ between the vendors is tried by all other
//! trials, on the AMD machines. `CORACLE_NESTED=intel cargo test --test linux` runs all trials on the Intel machine.

use libtest_mimic::Trial;

/// Names of trials, and of groups, which end in `::`.
const DIFFER: &[&str] = &[
    // CPUID, registers, clocks, and further vCPUs through real mode.
    "processors::",
    "cpus::hardware_virtualization_is_shown_only_to_a_guest_that_is_to_have_it",
    // What KVM tells of a guest's exits and ends, each kind of entry, and the local APIC.
    "hardware::a_state_that_the_processor_does_not_allow_is_a_failed_entry_with_its_reason",
    "hardware::command_line::",
    "hardware::cpus::",
    "hardware::ends::",
    "hardware::entry::a_64_bit_kernel_finds_the_zero_page_and_its_command_line_at_rsi",
    "hardware::entry::a_pvh_kernel_finds_its_start_info_and_command_line_at_ebx",
    "hardware::interrupts::",
    "hardware::nowhere::",
    "hardware::pauses::",
    "hardware::registers::",
    "hardware::stops::",
    "hardware::timings::",
    "hardware::virtio::a_write_by_hand_reaches_the_file_and_nothing_beside_it",
    // Debian's kernel as shipped, and its drivers for ACPI.
    "kernels::a_stock_debian_kernel_finds_its_devices_through_acpi_and_powers_off",
    // EPT beyond 4 GiB.
    "memory::a_guest_of_5_gib_sees_all_of_it_and_uses_what_is_above_4_gib",
    "console::all_that_the_guest_prints_arrives_through_a_pipe",
    "console::all_that_is_pasted_through_a_pipe_arrives_in_the_guest",
    "disks::what_the_guest_writes_is_whole_on_the_host_after_power_off",
    "guest::the_doctor_is_content_where_linux_boots",
    "guest::the_entropy_device_gives_random_bytes",
    "timings::a_boot_has_every_mark_of_kernel_and_init_and_the_workloads_first_output",
    // Programs, the agent, sockets, and what a process may do that has been taken over.
    "program::a_line_that_a_shell_reads_is_all_that_is_taken",
    "exec::its_streams_arrive_apart_and_its_status_is_coracles",
    "cp::a_client_that_is_killed_leaves_nothing_half",
    "sockets::each_side_ends_its_own_direction_and_still_receives",
    "confinement::confine::no_thread_has_a_capability_and_no_program_gets_more",
    // Every exit code that a Linux guest brings about.
    "ends::a_power_off_is_0",
    "ends::a_reboot_is_100",
    "ends::a_crash_is_102_with_the_kernels_words",
    "ends::a_kernel_without_a_root_device_is_103",
    "ends::a_root_file_system_without_init_is_104",
    "ends::an_init_that_ends_is_105_with_its_status",
    "ends::a_guest_told_to_panic_when_memory_runs_out_is_106",
    "terminals::ctrl_a_x_quits_with_112_and_restores_the_terminal",
    "ends::two_cpus_that_halt_are_113",
    "ends::a_stdout_that_takes_nothing_is_125",
    "ends::sighup_is_129",
    "ends::sigint_is_130",
    "ends::a_reader_that_leaves_is_141",
    "ends::sigterm_is_143",
];

/// Whether the Intel machine runs the trial.
pub fn runs(name: &str) -> bool {
    DIFFER.iter().any(|entry| names(entry, name))
}

/// Whether the entry is the trial or its group.
fn names(entry: &str, trial: &str) -> bool {
    match entry.ends_with("::") {
        true => trial.starts_with(entry),
        false => trial == entry,
    }
}

/// Fails for an entry that names no trial, such as one whose trial has another name now.
pub fn check(trials: &[Trial]) -> Result<(), String> {
    let unknown = DIFFER
        .iter()
        .find(|entry| !trials.iter().any(|trial| names(entry, trial.name())));
    match unknown {
        Some(entry) => Err(format!("tests/linux/intel.rs: there is no trial {entry}")),
        None => Ok(()),
    }
}
