//! The figures of a run as tables for people.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::Report;

/// How many reasons have a line of their own. The JSON has all of them.
const REASONS: usize = 12;
/// The counters of KVM that say something about a boot, and what the table calls them.
const COUNTERS: [(&str, &str); 8] = [
    ("io_exits", "port"),
    ("mmio_exits", "MMIO"),
    ("halt_exits", "halt"),
    ("irq_exits", "host interrupt"),
    ("irq_window_exits", "interrupt window"),
    ("hypercalls", "hypercall"),
    ("pf_fixed", "nested page fault"),
    ("insn_emulation", "instruction emulated"),
];

impl Report {
    /// The phases, exits, console and memory of a run, as text.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.phase_table());
        if self.guest_marks_lost > 0 {
            let _ = writeln!(
                text,
                "{} more marks of the guest are not shown",
                self.guest_marks_lost
            );
        }
        if self.exits.count > 0 {
            let _ = write!(text, "\n{}\n", self.exit_table());
        }
        let _ = writeln!(text, "\n{}", self.console_line());
        if let Some(line) = self.kvm_line() {
            let _ = writeln!(text, "{line}");
        }
        if let Some(memory) = &self.memory {
            let _ = writeln!(
                text,
                "memory: {} of the guest, {} of them its own; {} of Coracle",
                mebibytes(memory.guest),
                mebibytes(memory.guest_private),
                mebibytes(memory.coracle_private)
            );
        }
        text
    }

    fn phase_table(&self) -> String {
        let kvm = self.phases.iter().any(|row| row.kvm_exits.is_some());
        let mut head = vec!["phase, by its end", "at [ms]", "took [ms]", "exits"];
        head.extend(kvm.then_some("KVM's exits"));
        let rows = self.phases.iter().map(|row| {
            let mut cells = vec![
                row.words.clone(),
                format!("{:.3}", row.ended_ms),
                format!("{:.3}", row.took_ms),
                count(row.exits),
            ];
            cells.extend(kvm.then(|| row.kvm_exits.map_or_else(String::new, count)));
            cells
        });
        table(head, rows, 1)
    }

    fn exit_table(&self) -> String {
        let (shown, rest) = self
            .exits
            .by_reason
            .split_at(self.exits.by_reason.len().min(REASONS));
        let line = |what: &str, address: &str, device: &str, exits: u64, took: f64| {
            vec![
                what.to_owned(),
                address.to_owned(),
                device.to_owned(),
                exits.to_string(),
                format!("{took:.3}"),
            ]
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut rows: Vec<_> = shown
            .iter()
            .map(|exits| {
                let (address, device) = (text(&exits.address), text(&exits.device));
                line(exits.reason, &address, &device, exits.count, exits.took_ms)
            })
            .collect();
        if !rest.is_empty() {
            let exits = rest.iter().map(|exits| exits.count).sum();
            let took = rest.iter().map(|exits| exits.took_ms).sum();
            let what = format!("{} other reasons", rest.len());
            rows.push(line(&what, "", "", exits, took));
        }
        rows.push(line("all exits", "", "", self.exits.count, self.exits.took_ms));
        let head = vec!["exit", "address", "device", "exits", "took [ms]"];
        table(head, rows.into_iter(), 3)
    }

    fn console_line(&self) -> String {
        let console = &self.console;
        format!(
            "console: {} bytes written, {} exits, {:.3} ms in Coracle, {:.1} % of the run",
            console.bytes, console.exits, console.took_ms, console.run_percent
        )
    }

    fn kvm_line(&self) -> Option<String> {
        let kvm = self.kvm.as_ref()?;
        let counters: Vec<_> = COUNTERS
            .iter()
            .filter_map(|(name, words)| Some(format!("{words} {}", kvm.get(*name)?)))
            .collect();
        let exits = kvm.get("exits")?;
        Some(format!("KVM: {exits} exits; {}", counters.join(", ")))
    }
}

/// Formats a table whose columns from `first_number` on are numbers.
fn table(head: Vec<&str>, rows: impl Iterator<Item = Vec<String>>, first_number: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head).add_rows(rows);
    for column in table.column_iter_mut().skip(first_number) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// A number of exits; 0 is left blank, so that the phases with exits stand out.
fn count(exits: u64) -> String {
    match exits {
        0 => String::new(),
        exits => exits.to_string(),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use crate::timings::report::example;

    #[test]
    fn a_table_has_phases_exits_and_the_console() {
        let text = example().table();
        let has = |words: &[&str]| {
            text.lines()
                .any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") == words.join(" "))
        };
        assert!(has(&["VM created", "0.320", "0.170"]), "{text}");
        assert!(
            has(&["init's first line", "10.600", "0.500", "39", "390"]),
            "{text}"
        );
        assert!(
            has(&["port write", "0x3f8", "serial port", "330", "0.500"]),
            "{text}"
        );
        assert!(has(&["all exits", "400", "0.600"]), "{text}");
        assert!(
            text.contains("console: 330 bytes written, 390 exits, 0.560 ms in Coracle, 2.9 % of the run"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.len() < 100), "{text}");
    }

    #[test]
    fn what_is_seldom_is_one_line() {
        let mut report = example();
        let one = report.exits.by_reason[3].clone();
        report.exits.by_reason.extend(vec![one; 20]);
        assert!(report.table().contains("12 other reasons"), "{}", report.table());
    }
}
