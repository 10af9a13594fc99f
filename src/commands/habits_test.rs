use clap::Parser;

use super::*;
use crate::commands::Cli;

fn answer_to(arguments: &[&str]) -> Option<String> {
    let arguments: Vec<_> = ["coracle"]
        .iter()
        .chain(arguments)
        .map(|word| word.to_string())
        .collect();
    let error = Cli::try_parse_from(&arguments).expect_err("nobody has to be answered");
    answer(&error, &arguments)
}

#[test]
fn what_people_type_out_of_habit_is_answered_with_what_is_possible() {
    for (arguments, words) in [
        (
            &["run", "-ti", "debian:12"][..],
            "Container images cannot be run yet",
        ),
        (&["run", "-v", "/srv:/srv:ro"], "folders"),
        (&["run", "--volume", "a:b"], "folders"),
        (&["run", "-p", "8080:80"], "network"),
        (&["run", "-p8080:80"], "network"),
        (&["run", "debian:12"], "Container images cannot be run yet"),
        (
            &["run", "alpine", "ls", "-l"],
            "'alpine' is neither a flag nor a file",
        ),
        (&["run", "ubuntu", "--", "ls"], "'ubuntu' is neither"),
        (&["-v", "run", "ubuntu"], "'ubuntu' is neither"),
        (&["run", "/dev/null"], "'/dev/null' needs a flag"),
        (&["run", "\u{1b}[2J"], "'\\u{1b}[2J' is neither"),
    ] {
        let answer = answer_to(arguments).unwrap_or_else(|| panic!("{arguments:?} is not answered"));
        assert!(answer.contains(words), "{arguments:?}: {answer}");
        assert!(!answer.contains('\n'), "{answer}");
    }
}

#[test]
fn what_clap_answers_well_is_left_to_it() {
    for arguments in [
        &["run", "--kernal", "x"][..],
        &["run", "--kernel"],
        &["rum"],
        &["doctor", "-it"],
        &["race", "debian:12"],
        &[],
    ] {
        assert_eq!(answer_to(arguments), None, "{arguments:?}");
    }
}

#[test]
fn no_flag_that_exists_is_answered_as_if_it_did_not() {
    let mut command = <Cli as clap::CommandFactory>::command();
    command.build();
    let run = command.find_subcommand("run").expect("there is the command run");
    for argument in run.get_arguments() {
        let long = argument.get_long().map(|name| format!("--{name}"));
        let short = argument.get_short().map(|name| format!("-{name}"));
        for flag in long.iter().chain(&short) {
            let is_listed = FLAGS.iter().any(|(flags, _)| flags.contains(&flag.as_str()));
            assert!(!is_listed, "{flag} exists");
        }
    }
}
