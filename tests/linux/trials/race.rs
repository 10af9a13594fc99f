//! `coracle race` with real guests.

use std::fs;

use serde_json::Value;

use crate::images::scratch;
use crate::place;
use crate::run::Coracle;

crate::group!["race":
    coracle_is_measured_and_who_is_missing_has_a_row,
    two_guests_at_once_are_started_and_weighed,
];

/// What a race says, and what it writes as JSON.
fn race(arguments: &[&str]) -> (String, Value) {
    let scratch = scratch();
    let json = scratch.path().join("race.json");
    let finished = Coracle::program(place::coracle())
        .args([
            "race",
            "--only",
            "coracle,firecracker",
            "--export-json",
            json.to_str().unwrap(),
        ])
        .args(arguments)
        .end();
    finished.assert_code(0);
    let json = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    (finished.console(), json)
}

fn coracle_is_measured_and_who_is_missing_has_a_row() {
    let (said, json) = race(&["--runs", "2", "--warmup", "0", "--", "uname", "-s"]);
    let result = &json["results"][0];
    assert_eq!(result["command"], "coracle", "{said}\n{json:#}");
    assert_eq!(
        result["times"].as_array().map(Vec::len),
        Some(2),
        "{said}\n{json:#}"
    );
    let seconds = |name: &str| result[name].as_f64().unwrap();
    assert!(
        seconds("min") > 0.0 && seconds("user") + seconds("system") > 0.0,
        "{json:#}"
    );
    for memory in result["memory"].as_array().unwrap() {
        let bytes = |name: &str| memory[name].as_u64().unwrap();
        // A kernel has touched megabytes, and the VMM beside it has not.
        assert!(bytes("guest") > 1 << 20 && bytes("runner") < 1 << 20, "{json:#}");
        assert!(bytes("peak") >= bytes("guest"), "{json:#}");
    }
    assert_eq!(json["not_measured"][0]["command"], "firecracker");
    assert!(said.contains("firecracker  not found on PATH"), "{said}");
}

fn two_guests_at_once_are_started_and_weighed() {
    let (said, json) = race(&["--parallel", "2", "--warmup", "0", "--memory", "64M"]);
    let result = &json["results"][0];
    assert_eq!(
        result["times"].as_array().map(Vec::len),
        Some(2),
        "{said}\n{json:#}"
    );
    let together = &result["together"];
    assert!(together["starts_per_second"].as_f64().unwrap() > 0.0, "{json:#}");
    assert!(
        together["memory_each"].is_u64() && said.contains("fit"),
        "{said}\n{json:#}"
    );
}
