//! What somebody who attaches to a console is shown of its past.

use super::guest_modes::GuestModes;

/// Divides `past` before its last `rows` lines, the one without an end included.
pub fn split(past: &[u8], rows: usize) -> (&[u8], &[u8]) {
    let ends = past.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let start = ends.map(|(index, _)| index + 1).nth(rows.saturating_sub(1));
    past.split_at(start.unwrap_or(0))
}

/// What has a terminal show `shown` as it was shown after `skipped`: the modes that were on, and no questions. The guest got its
/// answers long ago, and would take others for something that is typed.
pub fn for_terminal(skipped: &[u8], shown: &[u8]) -> Vec<u8> {
    let mut modes = GuestModes::default();
    modes.watch(skipped);
    modes.take_asked();
    let mut all = modes.redo();
    let mut begin = 0;
    for (index, &byte) in shown.iter().enumerate() {
        modes.watch(&[byte]);
        let end = match byte {
            // It ends a string before it, and is the start of what follows.
            0x1b => index,
            _ if modes.is_between_sequences() => index + 1,
            _ => continue,
        };
        let part = &shown[begin..end];
        begin = end;
        // A mode that is switched on is asked about, too, but what the terminal says to it is wanted.
        if !modes.take_asked() || part.ends_with(b"h") {
            all.extend(part);
        }
    }
    all.extend(&shown[begin..]);
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_lines_are_shown_and_one_without_end_is_one_of_them() {
        let past = b"one\ntwo\nthree";
        for (rows, expected) in [
            (0, "three"),
            (1, "three"),
            (2, "two\nthree"),
            (3, "one\ntwo\nthree"),
            (9, "one\ntwo\nthree"),
        ] {
            assert_eq!(split(past, rows).1, expected.as_bytes(), "{rows}");
        }
        assert_eq!(split(b"one\ntwo\n", 2).1, b"two\n");
        assert_eq!(split(b"", 2), (&b""[..], &b""[..]));
    }

    #[test]
    fn modes_are_switched_on_again_and_nothing_is_asked() {
        let shown = b"a\x1b[6n\x1b[31mb\x05\x1b]0;title\x07c\x1b[?2004h\x1b[cd\xc3\xa9";
        let expected = b"\x1b[?1049ha\x1b[31mbc\x1b[?2004hd\xc3\xa9";
        assert_eq!(for_terminal(b"\x1b[?1049h\x1b[6n", shown), expected);
    }

    #[test]
    fn a_sequence_that_has_not_ended_is_left_to_what_follows() {
        assert_eq!(for_terminal(b"", b"a\x1b[3"), b"a\x1b[3");
    }

    proptest! {
        #[test]
        fn the_terminal_is_in_the_modes_of_the_whole_past(
            past in prop::collection::vec(prop::sample::select(&b"ab\n\x1b\x1b\x1b[[[[??12;5hlmncZ]\x07"[..]), 0..60),
            rows in 0usize..4,
        ) {
            let (skipped, shown) = split(&past, rows);
            prop_assert_eq!([skipped, shown].concat(), past.clone());
            let mut whole = GuestModes::default();
            // A sequence that begins in what is skipped has no end on the terminal.
            whole.watch(skipped);
            prop_assume!(whole.is_between_sequences());
            whole.watch(shown);
            let mut replayed = GuestModes::default();
            replayed.watch(&for_terminal(skipped, shown));
            prop_assert_eq!(replayed.redo(), whole.redo());
        }
    }
}
