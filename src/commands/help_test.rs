//! What `coracle help` says, against what the program does.

use clap::CommandFactory;

use super::Cli;
use crate::config::DISK_OPTIONS;
use crate::diagnosis::exit_code;

fn help_of(name: &str) -> String {
    let mut coracle = Cli::command();
    coracle.build();
    let command = coracle.find_subcommand_mut(name).expect("the command exists");
    command.render_long_help().to_string()
}

#[test]
fn the_help_of_run_lists_every_option_of_a_disk() {
    let help = help_of("run");
    for option in DISK_OPTIONS {
        let form = option.form;
        let is_listed = help
            .lines()
            .any(|line| line.trim_start().split("  ").next() == Some(form));
        assert!(is_listed, "{form} is not in:\n{help}");
    }
}

#[test]
fn the_help_of_run_lists_every_exit_code() {
    let help = help_of("run");
    let (_, codes) = help
        .split_once("Exit codes:")
        .expect("there is a list of exit codes");
    let words: Vec<_> = codes.split_whitespace().collect();
    let number = |word: &str| word.trim_end_matches(',').parse::<u8>().ok();
    let ranges = words.windows(3).filter(|three| three[1] == "to");
    let mut listed: Vec<_> = ranges
        .filter_map(|three| Some(number(three[0])?..=number(three[2])?))
        .flatten()
        .chain(words.iter().filter_map(|word| number(word)))
        .collect();
    listed.sort_unstable();
    listed.dedup();
    let table: Vec<_> = exit_code::TABLE.iter().map(|(code, _)| *code).collect();
    assert_eq!(listed, table, "{codes}");
}
