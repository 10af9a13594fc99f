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
        (&["run", "--volume", "a:b"][..], "folders"),
        (&["run", "-p", "8080:80"], "network"),
        (&["run", "-p8080:80"], "network"),
        (&["run", "--add-host", "a:10.0.0.1"], "network"),
        (&["run", "--label", "a=b"], "--name"),
        (&["run", "--gpus=all"], "--disk FILE"),
        (&["run", "--shm-size=1g"], "limits"),
        (&["run", "--stop-signal", "INT"], "coracle kill"),
        (&["exec", "-d", "web", "sleep", "9"], "COMMAND goes on"),
        (&["exec", "-itd", "web", "sh"], "COMMAND goes on"),
        (&["cp", "-r", "site", "web:/srv"], "a directory is copied"),
        (&["image", "ls"], "coracle images"),
        (&["build", "."], "buildah"),
        (&["system", "prune"], "coracle prune"),
        (&["start", "web"], "there is no command 'start': coracle run"),
        (&["-v", "ssh", "web"], "exec -it NAME sh"),
        (&["cp", "-ra", "site", "web:/srv"], "a directory is copied"),
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
        &["cp", "-d", "a", "b"],
        &["cp", "a", "b", "c"],
        &[],
    ] {
        assert_eq!(answer_to(arguments), None, "{arguments:?}");
    }
}

#[test]
fn no_command_that_exists_is_answered_as_if_it_did_not() {
    let all = <Cli as clap::CommandFactory>::command();
    for word in COMMANDS.iter().flat_map(|(words, _)| *words) {
        assert!(all.find_subcommand(word).is_none(), "{word} exists");
    }
}

#[test]
fn no_flag_that_exists_is_answered_as_if_it_did_not() {
    let mut all = <Cli as clap::CommandFactory>::command();
    all.build();
    for (name, flags, _) in FLAGS {
        let command = all.find_subcommand(name).expect("there is this command");
        for argument in command.get_arguments() {
            let long = argument.get_long().map(|name| format!("--{name}"));
            let short = argument.get_short().map(|name| format!("-{name}"));
            for flag in long.iter().chain(&short) {
                assert!(!flags.contains(&flag.as_str()), "{name} {flag} exists");
            }
        }
    }
}
