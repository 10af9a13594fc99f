use std::process::Command;

use proptest::prelude::*;

use super::*;

#[test]
fn a_path_of_plain_characters_stays_as_it_is() {
    for path in ["disk.img", "/a-b/c_d.qcow2", "měch.raw"] {
        assert_eq!(shell_word(Path::new(path)), path);
    }
}

#[test]
fn a_path_that_a_terminal_would_act_on_is_escaped() {
    let word = shell_word(Path::new("a\x1b[2Jb\u{202e}c"));
    assert_eq!(clean(&word), word);
}

#[test]
fn a_shell_runs_nothing_that_is_in_a_path_which_it_cannot_be_given() {
    for path in ["$(echo ran)\u{200b}", "`echo ran`\x1b", "'$(echo ran)'\x07"] {
        let script = format!("printf %s {}", shell_word(Path::new(path)));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        assert!(read.contains("echo ran"), "{script}: {read}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn a_shell_reads_the_path_that_was_meant(path in "[ -~]{1,20}") {
        prop_assume!(!path.starts_with("./-"));
        let script = format!("printf %s {}", shell_word(Path::new(&path)));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        prop_assert_eq!(read.strip_prefix("./-").map_or(read.clone(), |rest| format!("-{rest}")), path);
    }

    #[test]
    fn what_is_cleaned_has_nothing_that_a_terminal_acts_on(text in "\\PC*|[\\x00-\\x9f]*") {
        let cleaned = clean(&text);
        prop_assert!(!cleaned.chars().any(char::is_control), "{:?}", cleaned);
        prop_assert_eq!(clean(&cleaned), cleaned);
    }
}
