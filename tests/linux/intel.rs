//! Trials that run on the Intel machine beside the AMD machines, because Coracle, KVM or the guest does something else
//! there. Its processor is slow, so trials in which the vendors do not differ are not among them.

use libtest_mimic::Trial;

/// Names of trials, and of groups, which end in `::`.
const DIFFER: &[&str] = &[
    // CPUID, registers, clocks, and further vCPUs through real mode.
    "processors::",
    // What KVM tells of a guest's exits and ends.
    "hardware::",
    "cpus::one_cpu_is_online_and_runs_a_program",
    "cpus::two_cpus_are_online_and_each_runs_a_program",
    "cpus::four_cpus_are_online_and_each_runs_a_program",
    "cpus::hardware_virtualization_is_shown_only_to_a_guest_that_is_to_have_it",
    // Every entry of a kernel, from its first instruction on.
    "kernels::a_stock_debian_kernel_finds_its_devices_through_acpi_and_powers_off",
    "kernels::an_elf_with_a_pvh_note_boots_to_init",
    "kernels::an_elf_without_a_pvh_note_boots_to_init",
    "kernels::a_bzimage_of_lz4_boots_to_init",
    // EPT beyond 4 GiB.
    "memory::a_guest_of_5_gib_sees_all_of_it_and_uses_what_is_above_4_gib",
    "memory::the_process_dirties_at_most_half_a_megabyte_beside_guest_memory",
    "console::all_that_the_guest_prints_arrives_through_a_pipe",
    "console::all_that_is_pasted_through_a_pipe_arrives_in_the_guest",
    "disks::what_the_guest_writes_is_whole_on_the_host_after_power_off",
    "guest::the_doctor_is_content_where_linux_boots",
    "guest::the_demonstration_writes_a_disk_of_its_own_and_powers_off",
    "guest::the_entropy_device_gives_random_bytes",
    "terminals::stopping_restores_the_terminal_and_continuing_makes_it_raw_again",
    "terminals::ctrl_a_x_quits_with_112_and_restores_the_terminal",
    "program::its_status_is_coracles",
    "program::every_byte_arrives_in_both_directions_and_so_does_the_end",
    "program::a_line_that_a_shell_reads_is_all_that_is_taken",
    "program::a_terminal_that_is_resized_tells_its_program",
    "timings::a_boot_has_every_mark_of_kernel_and_init_and_the_workloads_first_output",
    // Every exit code that a Linux guest brings about.
    "ends::a_power_off_is_0",
    "ends::a_reboot_is_100",
    "ends::a_reboot_boots_again_when_asked_for",
    "ends::a_crash_is_102_with_the_kernels_words",
    "ends::a_kernel_without_a_root_device_is_103",
    "ends::a_root_file_system_without_init_is_104",
    "ends::an_init_that_ends_is_105_with_its_status",
    "ends::an_init_that_is_killed_is_105_with_the_signal",
    "ends::a_guest_told_to_panic_when_memory_runs_out_is_106",
    "ends::a_halt_is_113",
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
