//! Finds a terminal's answers to the request for its identity (primary device attributes, DA1) in what it sends.
//!
//! Terminals answer in the order in which they were asked. So the answer to this request tells that all answers to what was
//! asked before have come.

/// The request. Every terminal that answers anything answers it.
pub const REQUEST: &[u8] = b"\x1b[c";

/// What the next byte belongs to. An answer is `CSI ? PARAMETERS c`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Text,
    Escape,
    Control,
    Parameters,
}

/// Counts the answers.
#[derive(Debug, Default)]
pub struct Identities {
    place: Place,
    count: u64,
}

impl Identities {
    /// Follows the next bytes that the terminal sent, which may be divided anywhere.
    pub fn watch(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.place = match (self.place, byte) {
                (_, 0x1b) => Place::Escape,
                // A terminal may have been switched to 8-bit control characters.
                (_, 0x9b) | (Place::Escape, b'[') => Place::Control,
                (Place::Control, b'?') => Place::Parameters,
                (Place::Parameters, b'0'..=b'9' | b';' | b':') => Place::Parameters,
                (Place::Parameters, b'c') => {
                    self.count += 1;
                    Place::Text
                }
                _ => Place::Text,
            };
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(sent: &[u8]) -> u64 {
        let mut identities = Identities::default();
        // However it is cut.
        sent.iter().for_each(|byte| identities.watch(&[*byte]));
        let mut at_once = Identities::default();
        at_once.watch(sent);
        assert_eq!(identities.count(), at_once.count());
        identities.count()
    }

    #[test]
    fn answers_are_counted_among_keys_and_other_answers() {
        assert_eq!(count(b"\x1b[?62;22c"), 1);
        assert_eq!(count(b"ls\r\x1b[A\x1b[?6c\x1b[24;80R\x9b?1;2cc"), 2);
        assert_eq!(count(b"\x1b[?1\x1b[?6c"), 1);
    }

    #[test]
    fn keys_and_other_answers_are_no_identities() {
        for sent in [
            "c",
            "\x1b[c",
            "\x1b[>41;330;0c",
            "\x1b[?1;2R",
            "\x1b[?2026;2$y",
            "\x1bc",
            "\x1b[?u",
            "?6c",
        ] {
            assert_eq!(count(sent.as_bytes()), 0, "{sent:?}");
        }
    }
}
