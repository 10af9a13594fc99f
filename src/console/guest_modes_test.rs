use proptest::prelude::*;

use super::*;

fn after(output: &[u8]) -> GuestModes {
    let mut modes = GuestModes::default();
    modes.watch(output);
    modes
}

fn undo(output: &[u8]) -> String {
    String::from_utf8(after(output).undo()).unwrap()
}

fn asks(output: &[u8]) -> bool {
    after(output).take_asked()
}

#[test]
fn what_a_guest_switches_on_is_switched_off() {
    for (output, expected) in [
        ("\x1b[?1049h", "\x1b[?1049l"),
        ("\x1b[?1000;1006h", "\x1b[?1000l\x1b[?1006l"),
        ("\x1b[?1003h\x1b[?1004h", "\x1b[?1003l\x1b[?1004l"),
        ("\x1b[?2004h", "\x1b[?2004l"),
        ("\x1b[?25l", "\x1b[?25h"),
        ("\x1b[?7l", "\x1b[?7h"),
        ("\x1b[?1h\x1b=", "\x1b[?1l\x1b>"),
        ("\x1b[4h", "\x1b[4l"),
        ("\x1b(0", "\x0f\x1b(B\x1b)B"),
        ("\x0e", "\x0f\x1b(B\x1b)B"),
        ("\x1b[2;10r", "\x1b7\x1b[r\x1b8"),
        ("\x1b[1;31mred", "\x1b[m"),
        ("\x1b[>1u\x1b[>3u", "\x1b[<2u"),
        ("\x1b[?1049h\x1b[>1u", "\x1b[<1u\x1b[?1049l"),
        ("\x1b[>4;2m", "\x1b[>4m"),
        ("\x1b[3 q", "\x1b[0 q"),
        ("\x1b]11;#ff0000\x07", "\x1b]111\x1b\\"),
        ("\x1b[?2l", "\x1b<"),
        ("\x1b[5i", "\x1b[4i"),
        ("\u{9b}?25l", "\x1b[?25h"),
        ("\x1b[?1000r", "\x1b[?1000l"),
    ] {
        assert_eq!(undo(output.as_bytes()), expected, "{output:?}");
    }
    assert_eq!(undo(b"\x9b?25l"), "\x1b[?25h", "an 8-bit CSI outside of UTF-8");
}

#[test]
fn what_is_as_it_was_at_the_end_needs_nothing() {
    for output in [
        "plain text\r\n\ttabs and \u{2510} \u{11b}[?25l\r\n",
        "\x1b[1;31mred\x1b[0m and \x1b[32mgreen\x1b[m",
        "\x1b[?1049h\x1b[?25l\x1b[2J\x1b[?25h\x1b[?1049l",
        "\x1b[>1u\x1b[<u",
        "\x1b[2;10r\x1b[r",
        "\x1b[H\x1b[2J\x1b[10;10H\x1b[K",
        "\x1b]0;a title\x07",
        "\x1b]11;?\x07",
        "\x1b]8;;http://a/\x1b\\link\x1b]8;;\x1b\\",
        "\x1b[?1003h\x1b[31m\x1b(0\x1bc",
    ] {
        assert_eq!(undo(output.as_bytes()), "", "{output:?}");
    }
}

#[test]
fn a_sequence_that_was_cut_is_ended_first() {
    assert_eq!(undo(b"\x1b[?1003"), "\x18");
    assert_eq!(undo(b"\x1b]0;no end"), "\x18\x1b\\");
    assert_eq!(undo(b"\x1bPq"), "\x18\x1b\\");
}

#[test]
fn modes_that_were_switched_off_for_a_while_are_switched_on_again() {
    for (output, expected) in [
        ("\x1b[?1049h\x1b[?25l", "\x1b[?25l\x1b[?1049h"),
        ("\x1b[?1003h\x1b[?1003l\x1b[?2004h", "\x1b[?2004h"),
        ("\x1b[?1h\x1b=", "\x1b[?1h\x1b="),
        ("\x1b[4h\x1b[12l", "\x1b[4h\x1b[12l"),
        ("\x1b[?2l\x1b[?7l", "\x1b[?7l\x1b[?2l"),
        ("\x1b[1;31mred\x1b[2;5r\x1b(0", ""),
    ] {
        let redo = after(output.as_bytes()).redo();
        assert_eq!(String::from_utf8(redo).unwrap(), expected, "{output:?}");
    }
}

#[test]
fn requests_for_the_identity_are_counted() {
    let modes = after(b"\x1b[c\x1b[0c\x1bZ\x1b[>c\x1b[=c\x1b[6n\x1b[?62;22c\x1b[1c");
    assert_eq!(modes.identities_asked(), 3);
}

#[test]
fn what_a_terminal_answers_is_a_question() {
    for output in [
        "\x1b[c",
        "\x1b[>c",
        "\x1b[=c",
        "\x1b[5n",
        "\x1b[6n",
        "\x1b[?6n",
        "\x1b[18t",
        "\x1b[?1$p",
        "\x1b[>q",
        "\x1b[?u",
        "\x1bZ",
        "\x05",
        "\x1b]11;?\x07",
        "\x1b]52;c;?\x1b\\",
        "\x1bP$qm\x1b\\",
        "\x1b[?1004h",
        "\u{9b}c",
        "\x1b[1x",
        "\x1b[?4m",
    ] {
        assert!(asks(output.as_bytes()), "{output:?}");
    }
    assert!(asks(b"\x9bc") && asks(b"\x9a"), "8-bit control characters");
}

#[test]
fn what_no_terminal_answers_is_no_question() {
    for output in [
        "text \u{11b}c \u{2510}c\r\n",
        "\x1b[31mred\x1b[0m",
        "\x1b[H\x1b[2J\x1b[K",
        "\x1b[?25l",
    ] {
        assert!(!asks(output.as_bytes()), "{output:?}");
    }
}

proptest! {
    #[test]
    fn it_does_not_matter_how_output_is_cut(
        output in prop::collection::vec(prop_oneof![
            Just(0x1b), Just(b'['), Just(b']'), Just(b'?'), Just(b'h'), Just(b'1'), Just(b';'), Just(0x07), any::<u8>()
        ], 0..200),
        cut in 0usize..200,
    ) {
        let cut = cut.min(output.len());
        let whole = after(&output);
        let mut parts = after(&output[..cut]);
        parts.watch(&output[cut..]);
        prop_assert_eq!(whole.undo(), parts.undo());
        prop_assert!(whole.sequence.len() <= LOOKED_AT);
    }

    /// What is switched on again is undone by the same bytes.
    #[test]
    fn what_is_switched_on_again_are_the_same_modes(
        output in prop::collection::vec(prop_oneof![
            Just("\x1b[?1049h"), Just("\x1b[?25l"), Just("\x1b[4h"), Just("\x1b[12l"), Just("\x1b="), Just("\x1b>"),
            Just("\x1b[?1003h"), Just("\x1b[?1003l"), Just("text")
        ], 0..20),
    ) {
        let modes = after(output.concat().as_bytes());
        let again = after(&modes.redo());
        prop_assert_eq!(modes.undo(), again.undo());
        prop_assert_eq!(modes.redo(), again.redo());
    }

    /// The undoing must leave nothing behind: the terminal that has seen it is as it was.
    #[test]
    fn what_undoes_is_undone_by_nothing(
        output in prop::collection::vec(prop_oneof![
            Just("\x1b[?1049h"), Just("\x1b[?25l"), Just("\x1b[>1u"), Just("\x1b[1m"), Just("\x1b(0"), Just("\x1b="),
            Just("\x1b[4h"), Just("\x1b[1;5r"), Just("\x1b["), Just("\x1b]0;"), Just("text")
        ], 0..20),
    ) {
        let output = output.concat();
        let modes = after(output.as_bytes());
        let private = after(&[output.as_bytes(), &modes.undo()].concat()).private;
        prop_assert!(private.is_empty(), "{:?}", private);
    }
}
