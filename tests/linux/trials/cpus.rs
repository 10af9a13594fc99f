//! What a guest sees of its vCPUs beside their topology, of which the trials of processors.rs are.

use std::fs;

use crate::place;
use crate::run::Coracle;

crate::group!["cpus":
    hardware_virtualization_is_shown_only_to_a_guest_that_is_to_have_it;
    (!place::is_full()).then_some("minutes of spinning on one processor; eight_vcpus_... is the same with eight") =>
    thirty_two_cpus_are_online_and_each_runs_a_program,
];

/// All that a machine may have. Field 39 of /proc/self/stat is the CPU that the program runs on (proc(5)).
fn thirty_two_cpus_are_online_and_each_runs_a_program() {
    let finished = Coracle::run()
        .args(["--cpus", "32"])
        .script(
            "echo count $(nproc); echo online $(cat /sys/devices/system/cpu/online); \
             for cpu in $(seq 0 $(($(nproc) - 1))); do \
             taskset $(printf 0x%x $((1 << $cpu))) sh -c 'echo ran on $(cut -d \\  -f 39 /proc/self/stat)'; done",
        )
        .end();
    finished
        .assert_powered_off()
        .assert_prints("count 32\n")
        .assert_prints("online 0-31\n");
    for cpu in 0..32 {
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
