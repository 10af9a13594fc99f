//! A guest's output as text for a person: characters and colours, and nothing else that a terminal acts on. What asks a terminal
//! something would have it type an answer into the person's shell, and what changes its modes would outlive the text.

use std::mem;

use super::guest_modes::GuestModes;

/// Bytes of a sequence of colours (SGR) that is shown.
const LONGEST: usize = 64;
/// Resets all attributes of the characters that follow.
const RESET: &[u8] = b"\x1b[m";

/// Takes output in pieces, which may be divided anywhere.
#[derive(Default)]
pub struct Colours {
    /// Tells where a sequence or a character ends.
    modes: GuestModes,
    /// The first bytes of the one that has not ended.
    part: Vec<u8>,
    /// Colours are on in this line.
    are_on: bool,
}

impl Colours {
    /// What is shown of these bytes. Colours end with their line, so that what somebody else prints after it has none.
    pub fn show(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            // It ends what was before it. So does the end of a line: a guest that died in the middle of a sequence, or a log whose
            // start is gone, would hide what comes after.
            if matches!(byte, 0x1b | b'\n') {
                self.part.clear();
            }
            if byte == b'\n' {
                self.modes = GuestModes::default();
            }
            self.modes.watch(&[byte]);
            if self.part.len() <= LONGEST {
                self.part.push(byte);
            }
            if self.modes.is_between_sequences() {
                let mut part = mem::take(&mut self.part);
                self.end_part(&part, &mut shown);
                part.clear();
                self.part = part;
            }
        }
        shown
    }

    /// What is to be shown before somebody else prints: the rest of the line has no colours.
    pub fn pause(&mut self) -> &'static [u8] {
        match mem::take(&mut self.are_on) {
            true => RESET,
            false => b"",
        }
    }

    fn end_part(&mut self, part: &[u8], shown: &mut Vec<u8>) {
        match part {
            [0x1b, b'[', parameters @ .., b'm']
                if part.len() <= LONGEST && parameters.iter().all(is_number) =>
            {
                self.are_on = true;
                shown.extend(part);
            }
            // Another sequence, or an 8-bit control character, alone or as U+0080 to U+009F.
            [0x1b, ..] | [0x80..=0x9f, ..] | [0xc2, 0x80..=0x9f, ..] => (),
            [b'\n'] => {
                shown.extend(self.pause());
                shown.push(b'\n');
            }
            // U+FFFD stands for what is no character, as a terminal shows it. Left as it is, it would take the next bytes with it.
            _ => shown.extend(String::from_utf8_lossy(part).bytes().filter(is_shown)),
        }
    }
}

/// Parameters that begin otherwise are no colours (ECMA-48 section 5.4.2).
fn is_number(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b';' | b':')
}

fn is_shown(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r' | b'\t' | 0x08) || *byte >= 0x20 && *byte != 0x7f
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(bytes: &[u8]) -> Vec<u8> {
        Colours::default().show(bytes)
    }

    #[test]
    fn characters_and_colours_are_shown_and_nothing_else() {
        for (printed, expected) in [
            (&b"one\r\n\ttwo\n"[..], &b"one\r\n\ttwo\n"[..]),
            (
                "h\u{e9}\u{4e16}\u{1f6f6}".as_bytes(),
                "h\u{e9}\u{4e16}\u{1f6f6}".as_bytes(),
            ),
            (b"\x1b[1;38:5:9mred\nnot", b"\x1b[1;38:5:9mred\x1b[m\nnot"),
            // Questions: for the cursor's place, the identity, the answerback message, a colour.
            (
                b"a\x1b[6nb\x1b[cc\x05d\x1b]10;?\x07e\x9b6nf\xc2\x9b6ng",
                b"abcdefg",
            ),
            // Modes, another screen, a character set, the window's title, and keys (XTMODKEYS), which ends as colours do.
            (
                b"a\x1b[?1049hb\x0ec\x1b(0d\x1b]0;title\x1b\\e\x1b[>4;2mf\x1bcg",
                b"abcdefg",
            ),
            (b"a\x07\x00\x7f\x0b\x0cb", b"ab"),
            // One sequence ends another, and so does what ends all.
            (b"\x1b[3\x1b[31mred\x1b[\x18n", b"\x1b[31mredn"),
            // Bytes that are no characters take no others with them.
            (b"\xff\xe2\x05a", "\u{fffd}\u{fffd}a".as_bytes()),
            (b"\xc2\x05\xe2\x9b[", "\u{fffd}\u{fffd}[".as_bytes()),
            (b"\xc2\xc2\x9b6na", "\u{fffd}\u{fffd}a".as_bytes()),
            // So does the end of a line.
            (b"a\x1b]0;title\nKernel panic\n\x1b[1\nb", b"a\nKernel panic\n\nb"),
        ] {
            assert_eq!(shown(printed), expected, "{:?}", String::from_utf8_lossy(printed));
        }
    }

    #[test]
    fn colours_end_before_somebody_else_prints() {
        let mut colours = Colours::default();
        assert_eq!(colours.show(b"\x1b[31mlogin: "), b"\x1b[31mlogin: ");
        assert_eq!(colours.pause(), b"\x1b[m");
        assert_eq!(colours.pause(), b"");
        assert_eq!(colours.show(b"root\n"), b"root\n");
    }

    #[test]
    fn a_sequence_without_an_end_takes_no_memory() {
        let mut colours = Colours::default();
        for _ in 0..1000 {
            assert_eq!(colours.show(b"\x1b]0;"), b"");
            assert_eq!(colours.show(&[b'x'; 1000]), b"");
        }
        assert!(colours.part.capacity() < 1000);
    }

    proptest! {
        #[test]
        fn nothing_that_is_shown_asks_or_changes_anything_wherever_the_output_is_divided(
            printed in prop::collection::vec(
                prop::sample::select(&b"ab\n\x05\x1b\x1b\x1b[[[[?>12;5hlmncZ]P\x07\xc2\x9b\x9d\xe2\x18"[..]), 0..60),
            at in 0usize..60,
        ) {
            let mut colours = Colours::default();
            let (first, second) = printed.split_at(at.min(printed.len()));
            let parts = [colours.show(first), colours.show(second), colours.show(b"\x18\x18\n")].concat();
            let mut modes = GuestModes::default();
            modes.watch(&parts);
            prop_assert!(!modes.take_asked());
            prop_assert_eq!(modes.undo(), GuestModes::default().undo());
            prop_assert_eq!(parts, shown(&[&printed[..], b"\x18\x18\n"].concat()));
        }
    }
}
