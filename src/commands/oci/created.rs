//! When an image was made.

use std::time::{Duration, SystemTime};

/// Seconds since 1970 of a time as images have it (RFC 3339). None if it makes no sense, or is before 1970.
pub fn seconds(text: &str) -> Option<u64> {
    // Builders that do not write UTC write how far their clocks are ahead of it.
    let split = text.len().checked_sub("+00:00".len());
    let zone = split.and_then(|at| Some((text.get(..at)?, text.get(at..)?)));
    let (text, ahead) = match zone {
        Some((local, zone)) if zone.starts_with(['+', '-']) => (format!("{local}Z"), offset(zone)?),
        _ => (text.to_owned(), 0),
    };
    let time = humantime::parse_rfc3339(&text).ok()?;
    let time = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    time.as_secs().checked_add_signed(-ahead)
}

/// Seconds of `+HH:MM`.
fn offset(zone: &str) -> Option<i64> {
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let number = |digits: &str| digits.parse::<u8>().ok().map(i64::from);
    let seconds = number(hours)? * 3600 + number(minutes)? * 60;
    Some(if zone.starts_with('-') { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_read_in_any_zone() {
        for (text, expected) in [
            ("1970-01-01T00:00:09Z", Some(9)),
            ("2024-02-29T12:00:00.123456789Z", Some(1_709_208_000)),
            ("2024-02-29T14:00:00+02:00", Some(1_709_208_000)),
            ("2024-02-29T06:30:00.5-05:30", Some(1_709_208_000)),
            ("1970-01-01T00:00:09+01:00", None),
            ("0001-01-01T00:00:00Z", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
