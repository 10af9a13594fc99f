//! Text that somebody else chose, made safe to show on a person's terminal and to type into a shell.

use std::path::Path;

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

/// Neither a control character nor one that reorders or hides its neighbours.
fn is_visible(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `path` as one word of a command that a person can copy into a shell.
pub fn shell_word(path: &Path) -> String {
    let mut text = path.to_string_lossy();
    // A command would take it for an option.
    if text.starts_with('-') {
        text = format!("./{text}").into();
    }
    let is_plain = |character: char| {
        character.is_ascii_alphanumeric() || "/._-+=:@%,".contains(character) || !character.is_ascii()
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    match () {
        // A terminal would act on it, or it is not even text. What is shown instead leads to no file, and a shell runs
        // nothing that is in it.
        _ if path.to_str().is_none() || !text.chars().all(is_visible) => {
            quoted(&text.escape_debug().to_string())
        }
        _ if !text.is_empty() && text.chars().all(is_plain) => text.into_owned(),
        _ => quoted(&text),
    }
}

#[cfg(test)]
#[path = "plain_text_test.rs"]
mod tests;
