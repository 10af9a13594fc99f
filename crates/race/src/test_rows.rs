//! A race for the tests of what is made of it.

use super::{Host, Measured, Memory, Options, Row, Runner, Start, Together};

pub fn options() -> Options {
    Options {
        runs: 2,
        warmup: 1,
        runners: vec![Runner::Coracle, Runner::Crun, Runner::Podman],
        memory: 128 << 20,
        cpus: 1,
        parallel: None,
        command: Vec::new(),
    }
}

pub fn host() -> Host {
    Host {
        kernel: "6.1.0".into(),
        processor: "Some <CPU> & more".into(),
        cpus: 2,
        is_virtual: true,
        interprets_guests: false,
    }
}

/// Coracle in 20 ms, crun in 10, and no podman.
pub fn rows() -> Vec<Row> {
    let start = |time| Start {
        time,
        user: 0.001,
        system: 0.002,
        memory: Some(Memory {
            runner: 1 << 20,
            guest: 8 << 20,
            peak: 12 << 20,
        }),
    };
    let row = |runner, times: [f64; 2]| Row {
        runner,
        command: vec![format!("/usr/bin/{runner}"), "two words".into()],
        result: Ok(Measured {
            starts: times.map(start).into(),
            together: None,
        }),
    };
    vec![
        row(Runner::Coracle, [0.019, 0.021]),
        row(Runner::Crun, [0.010, 0.010]),
        Row {
            runner: Runner::Podman,
            command: Vec::new(),
            result: Err("not found | on PATH".into()),
        },
    ]
}

/// The same of a race of all at once.
pub fn rows_together() -> Vec<Row> {
    let mut rows = rows();
    for measured in rows.iter_mut().filter_map(|row| row.result.as_mut().ok()) {
        measured.together = Some(Together {
            starts_per_second: 95.2,
            memory_each: Some(9 << 20),
            fit: Some(111),
        });
    }
    rows
}
