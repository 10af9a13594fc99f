//! Every way in which a Linux guest can end a run, with the exit code and the explanation.

use std::fs::OpenOptions;
use std::io::pipe;

use libc::{SIGHUP, SIGINT, SIGTERM};

use crate::images::{self, ext4, initrd_with, scratch, sparse};
use crate::place;
use crate::run::{Coracle, Finished};

crate::group!["ends":
    a_power_off_is_0,
    a_halt_is_113,
    two_cpus_that_halt_are_113,
    a_reboot_is_100,
    a_reboot_boots_again_when_asked_for,
    a_crash_is_102_with_the_kernels_words,
    a_kernel_without_a_root_device_is_103,
    a_root_name_that_the_kernel_does_not_know_is_told_with_those_it_knows,
    a_journal_that_a_read_only_disk_keeps_from_being_replayed_is_told,
    a_disk_without_a_file_system_is_told_from_a_missing_one,
    an_initrd_that_is_not_unpacked_whole_is_told_after_a_power_off,
    a_root_file_system_without_init_is_104,
    an_init_that_ends_is_105_with_its_status,
    an_init_that_is_killed_is_105_with_the_signal,
    a_guest_whose_init_eats_all_memory_is_106,
    a_guest_told_to_panic_when_memory_runs_out_is_106,
    sigterm_is_143,
    sighup_is_129,
    sigint_is_130,
    a_panicked_guest_that_stands_still_is_still_explained,
    a_reader_that_leaves_is_141,
    a_stdout_that_takes_nothing_is_125,
];

fn a_power_off_is_0() {
    Coracle::run().script("poweroff").end().assert_powered_off();
}

fn a_halt_is_113() {
    halts(1);
}

fn two_cpus_that_halt_are_113() {
    halts(2);
}

fn halts(cpus: u8) {
    Coracle::run()
        .args(["--cpus", &cpus.to_string()])
        .script("halt -f")
        .end()
        .assert_code(113)
        .assert_prints("reboot: System halted")
        .assert_explains("coracle: the guest has shut down and halted, and did not power off\n")
        .assert_explains("`poweroff`");
}

fn a_reboot_is_100() {
    let finished = Coracle::run().script("reboot; sleep 60").end();
    finished
        .assert_code(100)
        .assert_explains("coracle: the guest rebooted\n")
        .assert_explains("--on-reboot restart");
}

fn a_reboot_boots_again_when_asked_for() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    let finished = Coracle::run()
        .args(["--on-reboot", "restart", "--disk", disk.to_str().unwrap()])
        .script(
            "mkdir -p /mnt; mount /dev/vda /mnt; echo boot $(ls /mnt | grep -c booted); \
             touch /mnt/booted-$(ls /mnt | grep -c booted); sync; \
             if [ $(ls /mnt | grep -c booted) -lt 3 ]; then umount /mnt; reboot -f; fi",
        )
        .end();
    finished
        .assert_powered_off()
        .assert_prints("boot 0\n")
        .assert_prints("boot 1\n")
        .assert_prints("boot 2\n");
}

fn a_crash_is_102_with_the_kernels_words() {
    Coracle::run()
        .script("echo c >/proc/sysrq-trigger")
        .end()
        .assert_code(102)
        .assert_explains("the guest kernel panicked: sysrq triggered crash\n")
        .assert_explains("| Kernel panic - not syncing: sysrq triggered crash\n");
}

fn a_kernel_without_a_root_device_is_103() {
    built_in_kernel()
        .end()
        .assert_code(103)
        .assert_explains("the guest kernel panicked: no root device\n")
        .assert_explains("| Kernel panic - not syncing: VFS: Unable to mount root fs")
        .assert_explains("likely: no disk was given and no initrd\n");
}

fn a_root_name_that_the_kernel_does_not_know_is_told_with_those_it_knows() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    built_in_kernel()
        .args(["--disk", disk.to_str().unwrap(), "--cmdline", "root=/dev/sda1"])
        .end()
        .assert_code(103)
        .assert_explains("the guest kernel panicked: no root device\n")
        .assert_explains("likely: the kernel has no device /dev/sda1; it has vda\n");
}

fn a_journal_that_a_read_only_disk_keeps_from_being_replayed_is_told() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    let disk = disk.to_str().unwrap();
    images::run("/sbin/debugfs", &["-w", "-R", "feature needs_recovery", disk]).unwrap();
    built_in_kernel()
        .args(["--disk", &format!("{disk},ro"), "--cmdline", "root=/dev/vda"])
        .end()
        .assert_code(103)
        .assert_explains("the guest kernel panicked: the root file system cannot be mounted\n")
        .assert_explains("likely: the file system was not unmounted: its journal must be written");
}

fn a_disk_without_a_file_system_is_told_from_a_missing_one() {
    let scratch = scratch();
    let disk = sparse(&scratch, "disk", 8 << 20);
    built_in_kernel()
        .args(["--disk", disk.to_str().unwrap(), "--cmdline", "root=/dev/vda"])
        .end()
        .assert_code(103)
        .assert_explains("the guest kernel panicked: the root file system cannot be mounted\n")
        .assert_explains("likely: the disk holds none of the kernel's file systems (");
}

fn an_initrd_that_is_not_unpacked_whole_is_told_after_a_power_off() {
    let scratch = scratch();
    let mut archive = std::fs::read(place::guest_images().join("initrd")).unwrap();
    archive.extend(b"this is no archive");
    let initrd = images::raw(&scratch, "initrd", &archive);
    let finished = Coracle::run()
        .args(["--initrd", initrd.to_str().unwrap()])
        // More than the end of the console that is looked at after the run.
        .script("head -c 9000 /dev/zero | tr '\\0' x; echo; echo the end")
        .end();
    finished
        .assert_code(0)
        .assert_prints("the end\n")
        .assert_explains(
            "coracle: the guest powered off, but its kernel could not unpack all of the initrd: ",
        );
}

fn a_root_file_system_without_init_is_104() {
    let scratch = scratch();
    let disk = ext4(&scratch, "disk");
    built_in_kernel()
        .args(["--disk", disk.to_str().unwrap(), "--cmdline", "quiet"])
        .end()
        .assert_code(104)
        .assert_explains("the guest kernel panicked: no init that it can run\n")
        .assert_explains("| Kernel panic - not syncing: No working init found");
}

/// The built-in kernel as a file of the person's: without the built-in initrd.
fn built_in_kernel() -> Coracle {
    Coracle::run().args([
        "--kernel".as_ref(),
        place::guest_images().join("vmlinux").as_os_str(),
    ])
}

fn an_init_that_ends_is_105_with_its_status() {
    // stty waits until the terminal has sent everything. Otherwise a kernel message could come before the end of the line.
    with_init("echo these are my last words; stty sane; exit 3")
        .assert_code(105)
        .assert_explains("the guest kernel panicked: init died: exit status 3\n")
        .assert_explains("| these are my last words\n")
        .assert_explains("| Kernel panic - not syncing: Attempted to kill init!");
}

/// Signals that are sent do not end init, but a program that has no room to start in ends as by a fault.
fn an_init_that_is_killed_is_105_with_the_signal() {
    with_init("ulimit -v 64; exec busybox true")
        .assert_code(105)
        .assert_explains("the guest kernel panicked: init died: killed by SIGSEGV\n");
}

fn a_guest_whose_init_eats_all_memory_is_106() {
    with_init("mount -t devtmpfs dev /dev; exec tail /dev/zero")
        .assert_code(106)
        .assert_explains("the guest kernel panicked: out of memory\n")
        .assert_explains("likely: the guest has 128 MiB of memory\n")
        .assert_explains("--memory 256M");
}

fn a_guest_told_to_panic_when_memory_runs_out_is_106() {
    Coracle::run()
        .args(["--memory", "48M"])
        // What the kernel says of its memory before that would be most of what the trial takes.
        .script(
            "dmesg -n 1; cd /proc/sys/vm; echo 2 >panic_on_oom; echo 1 >overcommit_memory; \
             dd if=/dev/zero of=/dev/null bs=64M",
        )
        .end()
        .assert_code(106)
        .assert_explains("the guest kernel panicked: out of memory\n")
        .assert_explains("likely: the guest has 48 MiB of memory\n");
}

/// The built-in guest with this script in place of its init.
fn with_init(script: &str) -> Finished {
    let scratch = scratch();
    let script = format!("#!/bin/busybox sh\nexport PATH=/bin\n/bin/busybox --install -s /bin\n{script}\n");
    let initrd = initrd_with(&scratch, "init", 0o755, script.as_bytes());
    Coracle::run().args(["--initrd", initrd.to_str().unwrap()]).end()
}

fn sigterm_is_143() {
    ended_by(SIGTERM, 143, "ended by SIGTERM");
}

fn sighup_is_129() {
    ended_by(SIGHUP, 129, "ended by SIGHUP");
}

fn sigint_is_130() {
    ended_by(SIGINT, 130, "ended by SIGINT");
}

fn ended_by(signal: i32, code: i32, told: &str) {
    let mut run = Coracle::run().script("echo up; sleep 1000").start();
    run.wait_for("up");
    run.signal(signal);
    run.end().assert_code(code).assert_explains(told);
}

fn a_panicked_guest_that_stands_still_is_still_explained() {
    let mut run = Coracle::run()
        .args(["--cmdline", "panic=0 -- sh -c \"echo c >/proc/sysrq-trigger\""])
        .start();
    run.wait_for("end Kernel panic");
    run.signal(SIGTERM);
    run.end()
        .assert_code(143)
        .assert_explains("the guest kernel had panicked: sysrq triggered crash\n");
}

fn a_reader_that_leaves_is_141() {
    let (reader, writer) = pipe().unwrap();
    let run = Coracle::run().script("yes").stdout(writer).start();
    drop(reader);
    run.end()
        .assert_code(141)
        .assert_explains("nobody reads the guest's console output any more");
}

fn a_stdout_that_takes_nothing_is_125() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    Coracle::run()
        .script("yes")
        .stdout(full)
        .end()
        .assert_code(125)
        .assert_explains("cannot write the guest's console output: No space left on device");
}
