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
        line.text().unwrap(),
        "console=ttyS0 panic=1 root=/dev/vda quiet virtio_mmio.device=4K@0xd0000000:5"
    );
}

#[test]
fn init_arguments_stay_at_the_end_whatever_is_added_later() {
    let mut line = line(&["a=1", "b=2 -- single --verbose", "c=3", "-- second", "d=4 --"]);
    line.append_virtio_mmio(GuestAddress(0xd000_1000), 6).unwrap();
    assert_eq!(
        line.text().unwrap(),
        "a=1 b=2 c=3 d=4 virtio_mmio.device=4K@0xd0001000:6 -- single --verbose second"
    );
}

#[test]
fn dashes_inside_of_quotes_or_words_are_no_separator() {
    let text = "x=\"a -- b\" y=--z ---";
    assert_eq!(line(&[text, "q"]).text().unwrap(), format!("{text} q"));
    assert_eq!(line(&["a \"--\" b", "c"]).text().unwrap(), "a c -- b");
}

#[test]
fn what_is_not_printable_ascii_is_refused_with_its_place() {
    for (text, position) in [
        ("a\0b", 1),
        ("ab\n", 2),
        ("é", 0),
        ("tab\there", 3),
        ("\u{7f}", 0),
    ] {
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
    fn any_text_gives_a_printable_line_or_an_error(parts in proptest::collection::vec(any::<String>(), 0..4)) {
        let mut line = CommandLine::new("console=ttyS0").unwrap();
        for part in &parts {
            let _ = line.append(part);
        }
        let text = line.text().unwrap();
        prop_assert!(text.starts_with("console=ttyS0"));
        prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }

    #[test]
    fn a_later_parameter_is_never_an_argument_of_init(text in "[-a-z=\" ]{0,40}") {
        let mut line = CommandLine::new("first").unwrap();
        if line.append(&text).is_ok() {
            line.append("last").unwrap();
            let text = line.text().unwrap();
            prop_assert!(names(&text, "last"), "{}", text);
        }
    }
}
