use super::*;
use crate::diagnosis::console;

fn lines(text: &str) -> Vec<String> {
    console::lines(text.as_bytes())
}

fn kind(message: &str) -> Kind {
    Kind::of(message)
}

#[test]
fn the_panics_of_linux_6_1_are_told_apart() {
    assert_eq!(
        kind("VFS: Unable to mount root fs on unknown-block(0,0)"),
        Kind::NoRoot
    );
    let no_init = "No working init found.  Try passing init= option to kernel. See Linux Documentation/admin-guide/init.rst for guidance.";
    assert_eq!(kind(no_init), Kind::NoInit);
    assert_eq!(
        kind("Requested init /bin/nothing failed (error -2)."),
        Kind::NoInit
    );
    assert_eq!(
        kind("Attempted to kill init! exitcode=0x00000100"),
        Kind::InitDied(0x100)
    );
    assert_eq!(kind("System is deadlocked on memory"), Kind::OutOfMemory);
    assert_eq!(
        kind("Out of memory: system-wide panic_on_oom is enabled"),
        Kind::OutOfMemory
    );
    assert_eq!(
        kind("setup_command_line: Failed to allocate 64 bytes"),
        Kind::OutOfMemory
    );
    assert_eq!(kind("alloc_low_pages: can not alloc memory"), Kind::OutOfMemory);
    assert_eq!(kind("can't allocate link hash entry"), Kind::OutOfMemory);
    assert_eq!(kind("Fatal exception in interrupt"), Kind::Other);
    assert_eq!(kind("Attempted to kill the idle task!"), Kind::Other);
}

#[test]
fn the_panics_of_later_kernels_are_told_apart_too() {
    assert_eq!(
        kind("VFS: Unable to mount root fs on \"/dev/vda\" or unknown-block(0,0)"),
        Kind::NoRoot
    );
}

#[test]
fn an_exit_code_that_is_no_number_is_any_panic() {
    for message in [
        "Attempted to kill init! exitcode=0x",
        "Attempted to kill init! exitcode=0x123456789abc",
    ] {
        assert_eq!(kind(message), Kind::Other);
    }
}

#[test]
fn the_last_panic_counts() {
    let lines = lines(
        "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n\
         Linux version 6.1\n\
         Kernel panic - not syncing: System is deadlocked on memory\n",
    );
    assert_eq!(
        find(&lines, false).map(|panic| panic.kind),
        Some(Kind::OutOfMemory)
    );
}

#[test]
fn a_panic_after_a_prompt_without_a_line_end_is_found() {
    let lines = lines("~ # [   12.345678] Kernel panic - not syncing: sysrq triggered crash\n");
    assert_eq!(
        find(&lines, false).map(|panic| panic.message),
        Some("sysrq triggered crash")
    );
}

#[test]
fn the_line_that_repeats_a_panic_stands_for_it_when_it_is_all_there_is() {
    let lines = lines("---[ end Kernel panic - not syncing: Fatal exception ]---\n");
    assert_eq!(
        find(&lines, false).map(|panic| panic.message),
        Some("Fatal exception")
    );
}

#[test]
fn a_panic_that_was_only_quoted_before_a_reboot_in_good_order_is_none() {
    let lines = lines("Kernel panic - not syncing: from a log\n/ # reboot\nreboot: Restarting system\n");
    assert!(find(&lines, false).is_none());
}

#[test]
fn what_an_earlier_boot_printed_does_not_explain_this_panic() {
    let lines = lines(
        "BUG: kernel NULL pointer dereference, address: 0000000000000000\n\
         Linux version 6.1.0\n\
         Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n",
    );
    let panic = find(&lines, false).unwrap();
    assert_eq!(oops::first(panic.before), None);
}

#[test]
fn a_first_process_that_died_before_it_became_init_is_not_init() {
    let died = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\n";
    for (cpu, kind) in [
        (
            "CPU: 0 PID: 1 Comm: swapper/0 Tainted: G      D            6.1.0 #1\n",
            Kind::DiedBeforeInit,
        ),
        (
            "CPU: 1 UID: 0 PID: 1 Comm: swapper/0 Not tainted 6.12.0 #1\n",
            Kind::DiedBeforeInit,
        ),
        (
            "CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1\n",
            Kind::InitDied(0xb),
        ),
        (
            "CPU: 0 PID: 0 Comm: swapper/0 Not tainted 6.1.0 #1\n",
            Kind::InitDied(0xb),
        ),
    ] {
        let lines = lines(&format!("{died}{cpu}"));
        assert_eq!(find(&lines, false).map(|panic| panic.kind), Some(kind), "{cpu}");
    }
}

#[test]
fn wait_statuses_are_decoded() {
    assert_eq!(wait_status(0x0000), "exit status 0");
    assert_eq!(wait_status(0x0100), "exit status 1");
    assert_eq!(wait_status(0x7f00), "exit status 127");
    assert_eq!(wait_status(0x000b), "killed by SIGSEGV");
    assert_eq!(wait_status(0x008b), "killed by SIGSEGV");
    assert_eq!(wait_status(0x0009), "killed by SIGKILL");
    assert_eq!(wait_status(0x0022), "killed by signal 34");
}
