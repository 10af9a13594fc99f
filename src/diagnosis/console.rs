//! The end of the guest's console output as lines that are safe to show.
//!
//! A guest prints what it likes. Shown again on stderr, after its output, its bytes must not drive the person's
//! terminal: escape sequences, control characters and invisible characters are left out.

/// How many bytes of the console's end are looked at.
pub const TAIL: usize = 8 << 10;
/// How many characters of a line are shown.
const SHOWN: usize = 160;

/// Where in an escape sequence (ECMA-48) the text is.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Text,
    /// After ESC, or ESC and intermediate characters.
    Escape,
    /// After CSI: parameters, until a final character.
    Control,
    /// In a control string such as a window title, until BEL or ST.
    String,
}

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

/// `text` without escape sequences and without what a terminal would not show. A sequence ends with its line.
pub fn clean(text: &str) -> String {
    let mut state = State::Text;
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        state = match (state, character) {
            (_, '\x1b') => State::Escape,
            (State::Escape, '[') => State::Control,
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::String,
            (State::Escape, ' '..='/') => State::Escape,
            (State::Control, ' '..='?') => State::Control,
            (State::String, '\x07' | '\u{9c}') => State::Text,
            (State::String, _) => State::String,
            (State::Escape | State::Control, _) => State::Text,
            (State::Text, '\t') => {
                cleaned.push(' ');
                State::Text
            }
            (State::Text, _) => {
                cleaned.extend(is_visible(character).then_some(character));
                State::Text
            }
        };
    }
    cleaned
}

/// `text` as it is shown: at most [`SHOWN`] characters.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Neither a control character nor one that reorders or hides its neighbours.
fn is_visible(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
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
