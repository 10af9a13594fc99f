//! `coracle run --timings` with the built-in guest, which marks how far it is.

use std::fs;

use serde_json::Value;

use crate::images::scratch;
use crate::run::Coracle;

crate::group!["timings":
    a_boot_has_every_mark_of_kernel_and_init_and_the_workloads_first_output,
    a_shells_table_comes_after_its_end_and_leaves_the_terminal_as_it_was,
];

fn a_boot_has_every_mark_of_kernel_and_init_and_the_workloads_first_output() {
    let scratch = scratch();
    let path = scratch.path().join("boot.json");
    Coracle::run()
        .args([&format!("--timings={}", path.display()), "--cpus", "2"])
        .script("cat /proc/cmdline")
        .end()
        .assert_powered_off()
        .assert_prints("coracle.clock");
    let json: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let phases = json["phases"].as_array().unwrap();
    let at = |name: &str| {
        phases
            .iter()
            .position(|row| row["phase"] == name)
            .unwrap_or_else(|| panic!("no {name}: {json:#}"))
    };
    let order = [
        "process_start",
        "arguments",
        "kernel_loaded",
        "devices",
        "first_guest_instruction",
        "guest_mark_1",
        "guest_mark_2",
        "guest_mark_3",
        "init_line",
        "workload_output",
        "end",
    ];
    assert!(order.map(at).is_sorted(), "{json:#}");
    // Init has written its line then; the other vCPU may still be sending it.
    assert!(
        (at("guest_mark_3")..at("workload_output")).contains(&at("guest_mark_4")),
        "{json:#}"
    );
    assert_eq!(json["guest_marks_lost"], 0);

    let number = |value: &Value| {
        value
            .as_u64()
            .unwrap_or_else(|| panic!("a number is missing: {json:#}"))
    };
    // KVM handles most exits itself, so its own count includes all those that reach Coracle and is larger.
    assert!(
        number(&json["kvm"]["exits"]) > number(&json["exits"]["count"]),
        "{json:#}"
    );
    let to_init: u64 = phases[..=at("init_line")]
        .iter()
        .map(|row| number(&row["exits"]))
        .sum();
    assert!(
        (1..number(&json["exits"]["count"])).contains(&to_init),
        "{json:#}"
    );
    let guest = number(&json["memory"]["guest_bytes"]);
    assert!((1 << 20..128 << 20).contains(&guest), "{json:#}");
    assert!(
        number(&json["memory"]["coracle_private_bytes"]) < 2 << 20,
        "{json:#}"
    );
}

fn a_shells_table_comes_after_its_end_and_leaves_the_terminal_as_it_was() {
    let mut run = Coracle::run().args(["--timings"]).on_terminal().start();
    run.wait_for("Coracle guest");
    run.wait_for("# ");
    run.type_in("exit\r");
    run.end()
        .assert_code(0)
        .assert_terminal_restored()
        .assert_explains("workload's first output")
        .assert_explains("end of the run")
        .assert_explains("console: ");
}
