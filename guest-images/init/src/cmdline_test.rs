use proptest::prelude::*;

use super::*;

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

#[test]
fn a_terminal_and_its_size_are_read() {
    let settings = Settings::parse("console=ttyS0 coracle.console=terminal coracle.size=24x80 quiet\n");
    assert_eq!(
        settings,
        Settings {
            terminal: true,
            size: Some((24, 80)),
            ..Settings::default()
        }
    );
}

#[test]
fn nothing_said_means_no_terminal_and_no_size() {
    assert_eq!(Settings::parse("console=ttyS0 quiet\n"), Settings::default());
}

#[test]
fn another_console_is_no_terminal() {
    assert!(!Settings::parse("coracle.console=terminal coracle.console=pipe").terminal);
}

#[test]
fn a_container_takes_the_machines_terminal_and_nothing_else() {
    let line =
        "coracle.console=terminal coracle.size=24x80 coracle.agent coracle.exec root=/dev/vda init=/bin/sh";
    assert_eq!(
        Settings::parse(line).in_container(),
        Settings::parse("coracle.console=terminal coracle.size=24x80")
    );
}

#[test]
fn settings_after_the_dashes_are_the_commands() {
    assert_eq!(
        Settings::parse("quiet -- echo coracle.console=terminal"),
        Settings::default()
    );
}

#[test]
fn a_size_that_is_none_counts_as_absent() {
    for size in [
        "", "24", "x", "24x", "x80", "0x80", "24x0", "-1x80", "24x80x1", "70000x80",
    ] {
        assert_eq!(
            Settings::parse(&format!("coracle.size={size}")).size,
            None,
            "{size}"
        );
    }
}

#[test]
fn the_words_after_the_dashes_are_the_command() {
    let arguments = strings(&["sh", "-c", "echo hello"]);
    assert_eq!(
        command(arguments.clone(), "quiet -- sh -c \"echo hello\"\n"),
        arguments
    );
}

#[test]
fn bare_words_that_the_kernel_did_not_know_are_no_command() {
    assert_eq!(
        command(strings(&["nosuchthing"]), "quiet nosuchthing\n"),
        strings(&[])
    );
    assert_eq!(
        command(strings(&["sh", "sh", "-l"]), "sh -- sh -l\n"),
        strings(&["sh", "-l"])
    );
}

#[test]
fn arguments_from_elsewhere_are_the_command() {
    assert_eq!(
        command(strings(&["true", "quiet"]), "ro quiet\n"),
        strings(&["true", "quiet"])
    );
}

#[test]
fn an_empty_command_after_the_dashes_is_none() {
    assert_eq!(command(strings(&["unknown"]), "unknown -- \n"), strings(&[]));
}

proptest! {
    #[test]
    fn any_line_and_any_arguments_are_read(line: String, arguments: Vec<String>) {
        Settings::parse(&line);
        let command = command(arguments.clone(), &line);
        prop_assert!(arguments.ends_with(&command));
    }

    #[test]
    fn every_size_survives(rows in 1u16.., columns in 1u16..) {
        let settings = Settings::parse(&format!("coracle.size={rows}x{columns}"));
        prop_assert_eq!(settings.size, Some((rows, columns)));
    }
}

#[test]
fn a_root_and_an_init_are_read_as_the_kernel_does() {
    let line = "root=/dev/sda root=/dev/vda1 rootfstype=ext4 rootflags=\"noload,errors=remount-ro\" coracle.layer=/dev/vdb rw init=/bin/sh -- init=x";
    let settings = Settings::parse(line);
    assert_eq!(
        settings.root,
        Some(Root {
            device: "/dev/vda1".into(),
            kind: Some("ext4".into()),
            options: Some("noload,errors=remount-ro".into()),
            read_write: true,
            layer: Some("/dev/vdb".into()),
        })
    );
    assert_eq!(settings.init.as_deref(), Some("/bin/sh"));
    let settings = Settings::parse("root=/dev/vda rw ro");
    assert!(!settings.root.unwrap().read_write);
    assert_eq!(Settings::parse("quiet rw -- root=/dev/vda").root, None);
    assert_eq!(Settings::parse("root= init").root, None);
    let root = Settings::parse("coracle.image=/dev/vda coracle.layer=/dev/vdb rw")
        .root
        .unwrap();
    assert_eq!(
        (root.device.as_str(), root.kind.as_deref()),
        ("/dev/vda", Some("erofs"))
    );
    assert_eq!((root.layer.as_deref(), root.read_write), (Some("/dev/vdb"), true));
}
