use proptest::prelude::*;

use super::*;

#[test]
fn escape_sequences_are_left_out() {
    let cases: [(&[u8], &str); 8] = [
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;a title\x07text", "text"),
        (b"\x1b]52;c;cm0gLXJm\x1b\\text", "text"),
        (b"\x1bPdevice string\x1b\\text", "text"),
        (b"a\x1b(Bb", "ab"),
        (b"where\x1b[6n?", "where?"),
        (b"\x1b\x1b[31mtwice", "twice"),
        (b"\xc2\x9b31mone byte", "31mone byte"),
    ];
    for (raw, expected) in cases {
        assert_eq!(lines(raw), [expected], "{raw:?}");
    }
}

#[test]
fn an_escape_sequence_that_never_ends_ends_with_its_line() {
    assert_eq!(lines(b"\x1b]0;for ever\r\nnext\r\n"), ["next"]);
}

#[test]
fn a_sequence_cut_off_at_the_end_is_harmless() {
    for raw in [b"a\x1b".as_slice(), b"a\x1b[", b"a\x1b[1;", b"a\x1b]"] {
        assert_eq!(lines(raw), ["a"]);
    }
}

#[test]
fn characters_that_hide_or_reorder_text_are_left_out() {
    assert_eq!(lines("safe\u{202e}txet\u{200b}\u{feff}".as_bytes()), ["safetxet"]);
}

#[test]
fn letters_of_every_language_stay() {
    assert_eq!(lines("vše je v pořádku".as_bytes()), ["vše je v pořádku"]);
}

#[test]
fn timestamps_and_thread_marks_of_the_kernel_are_left_out() {
    assert_eq!(
        lines(b"[    0.123456] VFS: x\n[    1.500000][    T1] y\n[   12.000001][   C1] z"),
        ["VFS: x", "y", "z"]
    );
}

#[test]
fn other_brackets_stay() {
    for text in [
        "[ OK ] Started",
        "[  ] empty",
        "[12",
        "[] x",
        "[1] + Done",
        "[T] x",
    ] {
        assert_eq!(lines(text.as_bytes()), [text]);
    }
}

#[test]
fn only_the_end_is_looked_at() {
    let mut raw = b"early\n".to_vec();
    raw.resize(3 * TAIL, b'x');
    raw.extend(b"\nlate\n");
    let lines = lines(&raw);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1], "late");
}

#[test]
fn a_long_line_is_shortened_between_characters() {
    let shown = shorten(&"é".repeat(SHOWN + 1));
    assert_eq!(shown, format!("{}...", "é".repeat(SHOWN)));
    assert_eq!(shorten("short"), "short");
}

proptest! {
    #[test]
    fn no_output_of_a_guest_leaves_a_character_that_a_terminal_acts_on(raw: Vec<u8>) {
        for line in lines(&raw) {
            prop_assert!(!line.is_empty());
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn plain_text_is_shown_as_it_is(text in "[a-zA-Z0-9 .:/-]{1,80}") {
        let text = text.trim();
        prop_assume!(!text.is_empty());
        prop_assert_eq!(lines(text.as_bytes()), [text]);
    }
}
