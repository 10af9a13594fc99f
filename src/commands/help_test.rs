//! What `coracle help` says, against what the program does.

use clap::{CommandFactory, Parser};

use super::{Alone, Cli, ExecAlone, RunAlone};
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

#[test]
fn the_help_leaves_the_breaking_of_lines_to_the_terminal() {
    let coracle = Cli::command();
    let texts = [&coracle].into_iter().chain(coracle.get_subcommands());
    for text in texts.filter_map(|command| Some(command.get_after_help()?.to_string())) {
        for (line, next) in text.lines().zip(text.lines().skip(1).chain([""])) {
            if line.starts_with(' ') {
                assert!(
                    line.len() <= 100,
                    "an example that is broken even in a wide terminal: {line}"
                );
            } else {
                let goes_on = !line.is_empty() && !next.is_empty() && !next.starts_with(' ');
                assert!(
                    !goes_on,
                    "a paragraph with a line break of its own: {line}\n{next}"
                );
            }
        }
    }
}

#[test]
fn the_options_of_every_command_come_after_the_commands_own() {
    let help = help_of("run");
    let of = |option: &str| help.find(option).expect("the option is listed");
    assert!(of("--config <FILE>\n") < of("-v, --verbose"));
}

/// The words of a command as a shell splits them, up to a comment, a pipe or a redirection.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in line.trim().split("  ").next().unwrap_or("").chars().chain([' ']) {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '|' | '>' | '<' | '#') => break,
            _ => word.get_or_insert_default().push(character),
        }
    }
    words
}

#[test]
fn every_command_in_the_documents_and_the_help_is_understood() {
    let coracle = Cli::command();
    let mut pages = vec![
        include_str!("../../README.md").to_owned(),
        include_str!("../../docs/disks.md").to_owned(),
        include_str!("../../docs/timings.md").to_owned(),
        include_str!("../../docs/race.md").to_owned(),
        include_str!("../../docs/confinement.md").to_owned(),
        include_str!("../../docs/guests.md").to_owned(),
        include_str!("../../docs/images.md").to_owned(),
        include_str!("../../docs/vsock.md").to_owned(),
        include_str!("../../docs/programs.md").to_owned(),
    ];
    // Not the rendered help, whose lines are broken.
    let commands = [&coracle].into_iter().chain(coracle.get_subcommands());
    pages.extend(commands.filter_map(|command| Some(command.get_after_help()?.to_string())));
    let lines = pages.iter().flat_map(|page| page.lines());
    let commands = lines.filter(|line| line.starts_with("  ") && line.trim_start().starts_with("coracle "));
    let mut count = 0;
    for line in commands.filter(|line| {
        !["...", "[", "$(", "guest:/ #"]
            .iter()
            .any(|part| line.contains(part))
    }) {
        let words = words(line);
        if let Err(error) = Cli::try_parse_from(&words)
            && error.exit_code() != 0
        {
            panic!("{line}\n{words:?}: {error}");
        }
        let alone = match words.get(1).map(|word| &**word) {
            Some("run") => Alone::<RunAlone>::try_parse_from(&words).map(drop),
            Some("exec") => Alone::<ExecAlone>::try_parse_from(&words).map(drop),
            _ => Cli::try_parse_from(&words).map(drop),
        };
        let all = Cli::try_parse_from(&words).map(drop);
        let kind = |error: clap::Error| error.kind();
        assert_eq!(alone.map_err(kind), all.map_err(kind), "{line}");
        count += 1;
    }
    assert!(count > 30, "only {count} commands were found");
}
