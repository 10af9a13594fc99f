use proptest::prelude::*;

use super::super::parameters::names;
use super::super::test_images::memory;
use super::*;

fn line(parts: &[&str]) -> CommandLine {
    let mut line = CommandLine::new("").unwrap();
    for part in parts {
        line.append(part).unwrap();
    }
    line
}

#[test]
fn parts_are_joined_in_order() {
    let mut line = line(&["console=ttyS0 panic=1", "", "  root=/dev/vda quiet "]);
    line.append_virtio_mmio(GuestAddress(0xd000_0000), 5).unwrap();
    assert_eq!(
        line.text(),
        "console=ttyS0 panic=1 root=/dev/vda quiet virtio_mmio.device=4096@0xd0000000:5"
    );
}

#[test]
fn init_arguments_stay_at_the_end_whatever_is_added_later() {
    let mut line = line(&["a=1", "b=2 -- single --verbose", "c=3", "-- second", "d=4 --"]);
    line.append_virtio_mmio(GuestAddress(0xd000_1000), 6).unwrap();
    assert_eq!(
        line.text(),
        "a=1 b=2 c=3 d=4 virtio_mmio.device=4096@0xd0001000:6 -- single --verbose second"
    );
}

#[test]
fn dashes_inside_of_quotes_or_words_are_no_separator() {
    let text = "x=\"a -- b\" y=--z ---";
    assert_eq!(line(&[text, "q"]).text(), format!("{text} q"));
    assert_eq!(line(&["a \"--\" b", "c"]).text(), "a c -- b");
}

#[test]
fn line_ends_and_tabs_are_blanks_as_they_are_to_linux() {
    assert_eq!(
        line(&["quiet\n", "a\tb\r\nc", "\n", "-- sh\n-l\n"]).text(),
        "quiet a b  c -- sh -l"
    );
    assert_eq!(line(&["a\n--\nb\n", "c"]).text(), "a c -- b");
    // They would change the value, so they cannot become spaces there.
    assert!(matches!(
        CommandLine::new("a=\"b\nc\""),
        Err(Error::Unprintable { .. })
    ));
}

#[test]
fn characters_beyond_ascii_are_passed_on_unless_linux_splits_at_them() {
    for text in [
        "init=/bin/öffnen",
        "greeting=\"\u{e0} la carte\" x=日本",
        "-- echo é",
    ] {
        assert_eq!(
            line(&[text, "quiet"])
                .text()
                .matches(text.trim_start_matches("-- "))
                .count(),
            1,
            "{text}"
        );
    }
    for text in ["a=\u{a0}", "a=\u{e0}", "日\u{820}"] {
        assert!(
            matches!(CommandLine::new(text), Err(Error::Blank { .. })),
            "{text}"
        );
    }
}

#[test]
fn control_characters_are_refused_with_their_place() {
    for (text, position) in [("a\0b", 1), ("\u{1b}[2J", 0), ("ab\u{9b}", 2), ("\u{7f}", 0)] {
        match CommandLine::new(text) {
            Err(Error::Unprintable { position: found, .. }) => assert_eq!(found, position, "{text:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_open_quotation_mark_is_refused() {
    let error = CommandLine::new("init=\"/bin/sh").unwrap_err();
    assert!(
        error.to_string().contains("never closed: init=\"/bin/sh"),
        "{error}"
    );
}

#[test]
fn a_line_too_long_names_its_length_and_who_has_which_limit() {
    let error = line(&[&"x".repeat(2048)]).check(2047).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the kernel command line is 2048 bytes long, this kernel takes 2047 (shorten it)"
    );
    assert!(line(&[&"x".repeat(2047)]).check(2047).is_ok());
    let error = line(&[&"x".repeat(layout::COMMAND_LINE_MAX)])
        .check(usize::MAX)
        .unwrap_err();
    assert!(
        error.to_string().contains("Coracle has room for 65535"),
        "{error}"
    );
}

#[test]
fn it_is_written_with_its_nul_and_nothing_more() {
    let memory = memory(0x1000);
    memory.write_slice(&[0xff; 16], GuestAddress(0x100)).unwrap();
    write(&line(&["quiet", "-- x"]), &memory, GuestAddress(0x100)).unwrap();
    let mut bytes = [0; 16];
    memory.read_slice(&mut bytes, GuestAddress(0x100)).unwrap();
    assert_eq!(&bytes[..11], b"quiet -- x\0");
    assert!(bytes[11..].iter().all(|&byte| byte == 0xff));
    assert!(matches!(
        write(&line(&["quiet"]), &memory, GuestAddress(0xfff)),
        Err(Error::GuestMemory(_))
    ));
}

proptest! {
    #[test]
    fn any_text_gives_a_line_without_control_characters_or_an_error(parts in proptest::collection::vec(any::<String>(), 0..4)) {
        let mut line = CommandLine::new("console=ttyS0").unwrap();
        for part in &parts {
            let _ = line.append(part);
        }
        let text = line.text();
        prop_assert!(text.starts_with("console=ttyS0"));
        prop_assert!(!text.contains(char::is_control));
    }

    #[test]
    fn a_later_parameter_is_never_an_argument_of_init(text in "[-a-z=\" ]{0,40}") {
        let mut line = CommandLine::new("first").unwrap();
        if line.append(&text).is_ok() {
            line.append("last").unwrap();
            let text = line.text();
            prop_assert!(names(&text, "last"), "{}", text);
        }
    }
}
