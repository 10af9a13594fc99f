//! A race as JSON: hyperfine's keys, so that scripts for hyperfine read it, and keys of our own.

use serde_json::{Map, Value, json};

use super::{Host, Options, Row, Statistics, as_typed, statistics};

/// `results` has what was measured: `command` (here the runner's name), `mean`, `stddev`, `median`, `user`, `system`,
/// `min`, `max` and `times`, all in seconds; ours are `p95`, `command_line`, `memory` of each start and `together`.
/// `not_measured` has the other runners with the reason, and `method` says how the figures were measured.
pub fn json(rows: &[Row], options: &Options, host: &Host) -> Value {
    let results: Vec<Value> = rows.iter().filter_map(result).collect();
    let not_measured: Vec<Value> = rows
        .iter()
        .filter_map(|row| {
            let why = row.result.as_ref().err()?;
            Some(json!({ "command": row.runner.name(), "why": why }))
        })
        .collect();
    json!({
        "results": results,
        "not_measured": not_measured,
        "method": {
            "version": env!("CARGO_PKG_VERSION"),
            "clock": "CLOCK_MONOTONIC",
            "command": options.command,
            "memory_mib": options.memory >> 20,
            "cpus": options.cpus,
            "warmup": options.warmup,
            "parallel": options.parallel,
            "host": host,
            "caution": host.caution(),
        },
    })
}

fn result(row: &Row) -> Option<Value> {
    let measured = row.result.as_ref().ok()?;
    let times = measured.times();
    let summary = serde_json::to_value(Statistics::of(&times)?).ok()?;
    let mut result = Map::new();
    result.insert("command".into(), row.runner.name().into());
    result.extend(summary.as_object().cloned().unwrap_or_default());
    let mean = |part: fn(&super::Start) -> f64| {
        statistics::mean(&measured.starts.iter().map(part).collect::<Vec<_>>())
    };
    result.insert("user".into(), mean(|start| start.user).into());
    result.insert("system".into(), mean(|start| start.system).into());
    result.insert("times".into(), times.into());
    result.insert("command_line".into(), as_typed(&row.command).into());
    let memory: Vec<_> = measured.starts.iter().map(|start| start.memory).collect();
    result.insert("memory".into(), json!(memory));
    if let Some(together) = &measured.together {
        result.insert("together".into(), json!(together));
    }
    Some(result.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{host, options, rows, rows_together};

    #[test]
    fn the_fields_of_hyperfine_are_there_in_seconds() {
        let json = json(&rows(), &options(), &host());
        let results = json["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        let coracle = &results[0];
        assert_eq!(coracle["command"], "coracle");
        assert_eq!(coracle["mean"], 0.02);
        assert_eq!(coracle["times"], json!([0.019, 0.021]));
        for name in ["stddev", "median", "user", "system", "min", "max"] {
            assert!(coracle[name].is_f64(), "{name} in {coracle:#}");
        }
        assert_eq!(coracle["command_line"], "/usr/bin/coracle 'two words'");
        assert_eq!(coracle["memory"][1]["guest"], 8 << 20);
    }

    #[test]
    fn who_was_not_measured_is_beside_the_results_with_the_reason() {
        let json = json(&rows(), &options(), &host());
        let not_measured = json!([{ "command": "podman", "why": "not found | on PATH" }]);
        assert_eq!(json["not_measured"], not_measured);
        assert!(json["method"]["caution"].is_string() && json["method"]["host"]["is_virtual"] == true);
    }

    #[test]
    fn a_race_of_all_at_once_has_its_own_figures_too() {
        let json = json(&rows_together(), &options(), &host());
        let together = json!({ "starts_per_second": 95.2, "memory_each": 9 << 20, "fit": 111 });
        assert_eq!(json["results"][1]["together"], together);
    }
}
