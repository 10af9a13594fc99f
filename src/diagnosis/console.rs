//! The end of the guest's console output as lines that are safe to show.
//!
//! A guest prints what it likes. Shown again on stderr, after its output, its bytes must not drive the person's
//! terminal: escape sequences, control characters and invisible characters are left out.

pub use crate::plain_text::clean;

/// How many bytes of the console's end are looked at.
pub const TAIL: usize = 8 << 10;
/// How many characters of a line are shown.
const SHOWN: usize = 160;

/// The lines of the last [`TAIL`] bytes, without blank ones and without the kernel's timestamps.
pub fn lines(raw: &[u8]) -> Vec<String> {
    let tail = &raw[raw.len().saturating_sub(TAIL)..];
    let mut lines = Vec::new();
    for line in String::from_utf8_lossy(tail).split(['\n', '\r']) {
        let line = clean(line);
        let text = without_timestamp(line.trim());
        if !text.is_empty() {
            lines.push(text.to_owned());
        }
    }
    lines
}

/// `text` as it is shown: at most [`SHOWN`] characters.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Linux writes `[    1.234567] ` before a message, or, when asked to say who printed it, `[    1.234567][    T1] `.
fn without_timestamp(line: &str) -> &str {
    let mut rest = line;
    while let Some((inside, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let inside = inside.trim_start();
        let (digits, point) = match inside.strip_prefix(['T', 'C']) {
            Some(number) => (number, false),
            None => (inside, true),
        };
        let is_number = digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (point && byte == b'.'));
        if digits.is_empty() || !is_number || point != digits.contains('.') {
            break;
        }
        rest = after.trim_start();
    }
    rest
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
