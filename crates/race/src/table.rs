//! The results of a race as text and tables.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, TableStyle, presets};

use super::{
    Host, Measured, Memory, Options, Ratio, Row, Runner, Statistics, as_typed, outliers, statistics,
};

const MILLISECONDS: f64 = 1e3;
const MIB: f64 = (1 << 20) as f64;

/// How a race is measured. It is printed before the figures.
pub fn method(options: &Options, host: &Host) -> String {
    let (stops, workload) = match options.command.as_slice() {
        [] => ("init's first line", String::new()),
        command => (
            "the first line of the command that init runs",
            format!("; the command is: {}", as_typed(command)),
        ),
    };
    let runs = match options.parallel {
        Some(count) => format!("{count} of each at once, one runner after the other"),
        None => format!("{} of each, in turns", options.runs),
    };
    let cache = match options.warmup {
        0 => "no warm-up: the first start of each may find its files on the disk (cold)".to_owned(),
        count => format!(
            "after {count} of each to warm up, which do not count: files come from the page cache (warm)"
        ),
    };
    let mut lines = vec![
        (
            "clock",
            format!(
                "CLOCK_MONOTONIC, from just before the process is started until the newline of {stops} is read"
            ),
        ),
        (
            "workload",
            format!("Coracle's built-in init as PID 1: of a guest, with the same kernel and initrd in every VMM, or of a container{workload}"),
        ),
        ("starts", format!("{runs}, {cache}")),
        (
            "guests",
            format!("{:.0} MiB and {} vCPU each; containers without limits, without a network", options.memory as f64 / MIB, options.cpus),
        ),
        (
            "user, system",
            "processor time of the process started and the descendants it waited for, guests included; not of daemons".to_owned(),
        ),
        (
            "memory",
            "private to the start, at the line: what the runner adds, and the guest or container in it; peak is resident, with shared pages".to_owned(),
        ),
        (
            "host",
            format!("Linux {}, {}, {} CPUs", host.kernel, host.processor, host.cpus),
        ),
    ];
    lines.extend(host.caution().map(|caution| ("caution", caution.to_owned())));
    let mut text = "From the start of a process to the first line that its workload prints\n".to_owned();
    for (name, line) in lines {
        let _ = writeln!(text, "  {name:<13} {line}");
    }
    text
}

/// The command lines of all runners, for --verbose.
pub fn commands(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| !row.command.is_empty()) {
        let _ = writeln!(text, "{}: {}", row.runner, as_typed(&row.command));
    }
    text
}

/// All figures, and the comparison between the runners.
pub fn results(rows: &[Row]) -> String {
    let mut text = String::new();
    let cells = cells(rows);
    if cells.len() > 1 {
        let _ = writeln!(text, "{}", table(&cells, presets::NOTHING));
    }
    let width = rows.iter().map(|row| row.runner.name().len()).max().unwrap_or(0);
    for row in rows {
        if let Err(why) = &row.result {
            let _ = writeln!(text, " {:<width$}  {why}", row.runner);
        }
    }
    for (row, measured) in measured(rows) {
        if let Some(warning) = warning(measured) {
            let _ = writeln!(text, "\nWarning: {}: {warning}", row.runner);
        }
    }
    text + &comparison(rows)
}

/// The figures as a table in Markdown, with a row for who was not measured, too.
pub fn markdown(rows: &[Row]) -> String {
    let mut cells = cells(rows);
    let columns = cells[0].len();
    for row in rows {
        if let Err(why) = &row.result {
            let mut line = vec![
                row.runner.to_string(),
                format!("not measured: {}", why.replace('|', "\\|")),
            ];
            line.resize(columns, String::new());
            cells.push(line);
        }
    }
    format!("{}\n", table(&cells, presets::ASCII_MARKDOWN))
}

fn measured(rows: &[Row]) -> impl Iterator<Item = (&Row, &Measured)> {
    rows.iter()
        .filter_map(|row| row.result.as_ref().ok().map(|measured| (row, measured)))
}

/// The first line is the head.
fn table(cells: &[Vec<String>], style: TableStyle) -> String {
    let mut table = Table::new();
    table.load_style(style);
    if let Some((head, lines)) = cells.split_first() {
        table.set_header(head).add_rows(lines);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    let together = measured(rows).any(|(_, measured)| measured.together.is_some());
    let mut head = vec!["runner", "mean ± σ [ms]"];
    head.extend(match together {
        true => ["median", "p99", "min … max"],
        false => ["median", "p95", "min … max"],
    });
    head.extend(["user", "system", "adds [MiB]", "guest", "peak"]);
    head.extend(match together {
        true => ["starts/s", "MiB each", "fit"].as_slice(),
        false => &["runs"],
    });
    let lines = measured(rows).filter_map(|(row, measured)| line(row.runner, measured));
    [head.into_iter().map(String::from).collect()]
        .into_iter()
        .chain(lines)
        .collect()
}

fn line(runner: Runner, measured: &Measured) -> Option<Vec<String>> {
    let times = measured.times();
    let statistics = Statistics::of(&times)?;
    let ms = |seconds: f64| format!("{:.2}", seconds * MILLISECONDS);
    let mean = |part: fn(&super::Start) -> f64| {
        ms(statistics::mean(
            &measured.starts.iter().map(part).collect::<Vec<_>>(),
        ))
    };
    let high = match measured.together {
        Some(_) => statistics::percentile(&statistics::sorted(&times), 99),
        None => statistics.p95,
    };
    let mut line = vec![
        runner.to_string(),
        match statistics.stddev {
            Some(stddev) => format!("{} ± {}", ms(statistics.mean), ms(stddev)),
            None => ms(statistics.mean),
        },
        ms(statistics.median),
        ms(high),
        format!("{} … {}", ms(statistics.min), ms(statistics.max)),
        mean(|start| start.user),
        mean(|start| start.system),
    ];
    let memory = |part: fn(&Memory) -> u64| {
        let known: Vec<u64> = measured
            .starts
            .iter()
            .filter_map(|start| start.memory.as_ref().map(part))
            .collect();
        known
            .into_iter()
            .max()
            .map_or_else(|| "unknown".into(), mebibytes)
    };
    line.extend([
        memory(|memory| memory.runner),
        memory(|memory| memory.guest),
        memory(|memory| memory.peak),
    ]);
    match &measured.together {
        Some(together) => line.extend([
            format!("{:.1}", together.starts_per_second),
            together.memory_each.map_or_else(|| "unknown".into(), mebibytes),
            together
                .fit
                .map_or_else(|| "unknown".into(), |fit| fit.to_string()),
        ]),
        None => line.push(measured.starts.len().to_string()),
    }
    Some(line)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / MIB)
}

fn warning(measured: &Measured) -> Option<String> {
    let times = measured.times();
    let places = outliers(&times);
    let worst = places
        .iter()
        .map(|&place| times[place])
        .fold(None, |worst: Option<f64>, time| {
            Some(worst.map_or(time, |worst| worst.max(time)))
        })?;
    let count = match places.len() {
        1 => "1 start stands".to_owned(),
        count => format!("{count} starts stand"),
    };
    let advice = match places.as_slice() {
        [0] => "only the first: more --warmup may help",
        _ => "something else was busy here: a quiet host gives better figures",
    };
    Some(format!(
        "{count} far apart from the others of {} (up to {:.2} ms); {advice}",
        times.len(),
        worst * MILLISECONDS
    ))
}

/// How many times faster the fastest runner was than each other one.
fn comparison(rows: &[Row]) -> String {
    let mut ranking: Vec<(Runner, Statistics)> = measured(rows)
        .filter_map(|(row, measured)| Some((row.runner, Statistics::of(&measured.times())?)))
        .collect();
    ranking.sort_unstable_by(|(_, one), (_, other)| one.mean.total_cmp(&other.mean));
    let mut text = String::new();
    if let [(fastest, best), others @ ..] = ranking.as_slice()
        && !others.is_empty()
    {
        let _ = writeln!(text, "\n{fastest} was");
        for (runner, statistics) in others {
            let Ratio { value, stddev } = Ratio::of(statistics, best);
            let spread = stddev.map_or_else(String::new, |stddev| format!(" ± {stddev:.2}"));
            let _ = writeln!(text, "  {value:.2}{spread} times faster than {runner}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{host, options, rows, rows_together};

    #[test]
    fn every_runner_has_a_line_in_markdown() {
        let markdown = markdown(&rows());
        let lines: Vec<&str> = markdown.lines().collect();
        fn cells(line: &str) -> Vec<&str> {
            line.split('|').map(str::trim).collect()
        }
        assert_eq!(lines.len(), 5, "{markdown}");
        assert!(
            cells(lines[2])[1..4] == ["coracle", "20.00 ± 1.41", "20.00"],
            "{markdown}"
        );
        assert!(cells(lines[3])[1..3] == ["crun", "10.00 ± 0.00"], "{markdown}");
        assert!(
            lines[4].contains("| not measured: not found \\| on PATH |"),
            "{markdown}"
        );
        // An escaped bar is no end of a cell.
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        assert!(
            lines.iter().all(|line| columns(line) == columns(lines[0])),
            "{markdown}"
        );
    }

    #[test]
    fn the_fastest_is_compared_to_everybody() {
        let results = results(&rows());
        assert!(
            results.contains("crun was\n  2.00 ± 0.14 times faster than coracle\n"),
            "{results}"
        );
        assert!(results.contains(" podman   not found | on PATH\n"), "{results}");
        assert!(!results.contains("Warning"), "{results}");
    }

    #[test]
    fn a_start_that_stands_apart_is_told_of() {
        let mut rows = rows();
        let Ok(measured) = &mut rows[1].result else {
            panic!("crun was measured");
        };
        let usual = measured.starts[0];
        measured.starts = vec![usual; 8];
        measured.starts[5].time *= 3.0;
        assert!(
            results(&rows).contains("Warning: crun: 1 start stands far apart"),
            "{}",
            results(&rows)
        );
    }

    #[test]
    fn starts_at_once_have_their_rate_and_their_price() {
        let results = results(&rows_together());
        let head = results.lines().next().unwrap();
        assert!(
            head.contains("p99") && head.ends_with("starts/s  MiB each  fit"),
            "{results}"
        );
        assert!(results.contains("95.2       9.0  111"), "{results}");
    }

    #[test]
    fn the_method_names_the_clock_the_cache_and_the_host() {
        let text = method(&options(), &host());
        for word in [
            "CLOCK_MONOTONIC",
            "warm",
            "Linux 6.1.0",
            "2 of each, in turns",
            "itself a virtual machine",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let cold = Options {
            warmup: 0,
            command: vec!["uname".into()],
            ..options()
        };
        let text = method(&cold, &host());
        assert!(
            text.contains("cold") && text.contains("the command is: uname"),
            "{text}"
        );
    }
}
