//! vCPUs: the guest finds all of them, and each runs programs.

use std::fs;

use crate::place;
use crate::run::Coracle;

crate::group!["cpus":
    hardware_virtualization_is_shown_only_to_a_guest_that_is_to_have_it,
    many_cpus_are_online_and_each_runs_a_program,
    four_cpus_are_online_and_each_runs_a_program,
    two_cpus_are_online_and_each_runs_a_program,
    one_cpu_is_online_and_runs_a_program,
];

fn one_cpu_is_online_and_runs_a_program() {
    check(1, "0");
}

fn two_cpus_are_online_and_each_runs_a_program() {
    check(2, "0-1");
}

fn four_cpus_are_online_and_each_runs_a_program() {
    check(4, "0-3");
}

/// All that a machine may have, where the processor is real; two emulated ones would spend minutes on their spinning.
fn many_cpus_are_online_and_each_runs_a_program() {
    if place::is_full() {
        check(32, "0-31")
    } else {
        check(8, "0-7")
    }
}

/// Field 39 of /proc/self/stat is the CPU that the program runs on (proc(5)).
fn check(cpus: u8, online: &str) {
    let count = cpus.to_string();
    let finished = Coracle::run()
        .args(["--cpus", &count])
        .script(
            "echo count $(nproc); echo online $(cat /sys/devices/system/cpu/online); \
             for cpu in $(seq 0 $(($(nproc) - 1))); do \
             taskset $(printf 0x%x $((1 << $cpu))) sh -c 'echo ran on $(cut -d \\  -f 39 /proc/self/stat)'; done",
        )
        .end();
    finished
        .assert_powered_off()
        .assert_prints(&format!("count {cpus}\n"))
        .assert_prints(&format!("online {online}\n"));
    for cpu in 0..cpus {
        finished.assert_prints(&format!("ran on {cpu}\n"));
    }
}

/// KVM offers it to guests wherever it has it itself, which is where these trials run.
fn hardware_virtualization_is_shown_only_to_a_guest_that_is_to_have_it() {
    let host = fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag| host.split_whitespace().any(|word| word == flag);
    let flag = ["vmx", "svm"].into_iter().find(|&flag| has(flag));
    let flag = flag.expect("a processor that KVM works on has one of them");
    // Linux has a second line of such words, for what VMX can do.
    let count = format!("echo with $(grep ^flags /proc/cpuinfo | grep -c -w {flag})");
    Coracle::run()
        .script(&count)
        .end()
        .assert_powered_off()
        .assert_prints("with 0\n");
    Coracle::run()
        .args(["--cpu", &format!("host,+{flag}")])
        .script(&count)
        .end()
        .assert_powered_off()
        .assert_prints("with 1\n");
}
