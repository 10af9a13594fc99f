//! Values in the records of extended headers (POSIX.1-2017, pax Extended Header).

use crate::entry::Time;

/// A number in decimal digits, and nothing else.
pub fn decimal(text: &[u8]) -> Option<u64> {
    let is_plain = text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()
}

/// Seconds since 1970 with a fraction, and perhaps a minus sign. What is smaller than a nanosecond is left out.
pub fn time(text: &[u8]) -> Option<Time> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?).ok()?;
    let fraction = text.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |index| u32::from(*fraction.get(index).unwrap_or(&b'0') - b'0');
    let nanoseconds = (0..9).fold(0, |value, index| value * 10 + digit(index));
    Some(match (is_negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
#[path = "pax_test.rs"]
mod tests;
