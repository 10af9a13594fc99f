//! Numbers of bytes as Docker writes them.

/// A number of bytes with three digits and a decimal unit: `1.24kB`, `117MB`.
pub fn decimal(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    // What would be rounded to 1000 has the next unit.
    while size >= 999.5 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let digits = match size {
        _ if unit == 0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    let text = format!("{size:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn sizes_have_three_digits_and_decimal_units() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1239, "1.24kB"),
            (2048, "2.05kB"),
            (10_549, "10.5kB"),
            (99_960, "100kB"),
            (116_700_000, "117MB"),
            (999_499_999, "999MB"),
            (999_600_000, "1GB"),
            (123_456_789_012, "123GB"),
            (u64::MAX, "18447PB"),
        ] {
            assert_eq!(decimal(bytes), text);
        }
    }
}
