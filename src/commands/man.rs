//! `coracle man`: prints the manual pages. They are generated from the definitions of the arguments.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, Error, print, system};
use crate::diagnosis::exit_code;

/// Print the manual page of coracle or of a subcommand
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle man | man -l -
  coracle man run > /usr/local/share/man/man1/coracle-run.1")]
pub struct Args {
    /// Print the page of this subcommand [default: the page of coracle itself]
    command: Option<String>,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    const WHAT: &str = "print the manual page";
    let coracle = coracle();
    let page = match &args.command {
        None => page(&coracle, &coracle),
        Some(name) => {
            let command = coracle.find_subcommand(name).ok_or_else(|| {
                system(WHAT)(io::Error::other(format!(
                    "there is no command '{name}' (coracle help lists them)"
                )))
            })?;
            page(command, &coracle)
        }
    };
    print(WHAT, page.map_err(system(WHAT))?)?;
    Ok(0)
}

/// The program's arguments. Its command `help` is left out, since it has no page.
fn coracle() -> Command {
    let mut coracle = Cli::command().disable_help_subcommand(true);
    coracle.build();
    coracle
}

/// The page of `command`, with the sections and their order of man-pages(7).
fn page(command: &Command, coracle: &Command) -> io::Result<String> {
    // The generator names a section and a placeholder of the synopsis after these.
    let named = command
        .clone()
        .subcommand_help_heading("COMMANDS")
        .subcommand_value_name("COMMAND");
    let man = Man::new(named).source(concat!("coracle ", env!("CARGO_PKG_VERSION")));
    let rendered = |render: fn(&Man, &mut dyn io::Write) -> io::Result<()>| -> io::Result<String> {
        let mut text = Vec::new();
        render(&man, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    // Definitions for the whole page come before each section. The title keeps them.
    let section = |render| {
        rendered(render).map(|text| match text.find(".SH ") {
            Some(heading) => text[heading..].to_owned(),
            None => text,
        })
    };
    let help = section(Man::render_extra_section)?;
    let help = HelpText::read(help.split_once('\n').map_or("", |(_heading, text)| text));

    let mut page = rendered(Man::render_title)?;
    page += &section(Man::render_name_section)?;
    page += &section(Man::render_synopsis_section)?;
    page += &section(Man::render_description_section)?;
    for paragraph in help.description {
        page += &format!(".PP\n{paragraph}\n");
    }
    page += &section(Man::render_options_section)?;
    if command.has_subcommands() {
        page += &section(Man::render_subcommands_section)?;
    }
    let exit_status = help.exit_status.map_or_else(usual_exit_status, str::to_owned);
    page += &format!(".SH \"EXIT STATUS\"\n{exit_status}\n");
    if let Some(examples) = help.examples {
        page += &format!(".SH EXAMPLES\n{examples}\n");
    }
    page += &format!(".SH \"SEE ALSO\"\n{}\n", other_pages(command, coracle).join(", "));
    Ok(keep_lines(&page))
}

/// What a command's help says after the options. It is made of paragraphs, of which some begin with a heading.
#[derive(Debug, Default)]
struct HelpText<'a> {
    /// The paragraphs without a heading.
    description: Vec<&'a str>,
    exit_status: Option<&'a str>,
    examples: Option<&'a str>,
}

impl<'a> HelpText<'a> {
    fn read(text: &'a str) -> Self {
        let mut help = Self::default();
        for paragraph in text.trim_end().split("\n\n").filter(|text| !text.is_empty()) {
            // The text follows its heading on the same line or on the next.
            let under = |heading| paragraph.strip_prefix(heading)?.get(1..);
            if let Some(codes) = under("Exit codes:") {
                help.exit_status = Some(codes);
            } else if let Some(examples) = under("Examples:") {
                help.examples = Some(examples);
            } else {
                help.description.push(paragraph);
            }
        }
        help
    }
}

/// The exit status of a command whose help does not list it, because it is the same for all of them.
fn usual_exit_status() -> String {
    let mut text = "0 if it worked".to_owned();
    for (code, meaning) in exit_code::TABLE {
        if [exit_code::FAILED, exit_code::STDOUT_CLOSED].contains(code) {
            text += &format!("; {code}: {meaning}");
        }
    }
    text + "."
}

/// The other manual pages, as they are referred to.
fn other_pages(command: &Command, coracle: &Command) -> Vec<String> {
    let subcommands = coracle.get_subcommands().map(Command::get_name);
    let mut pages = vec!["coracle".to_owned()];
    pages.extend(subcommands.map(|name| format!("coracle-{name}")));
    pages.retain(|page| page != command.get_display_name().unwrap_or("coracle"));
    pages
        .iter()
        .map(|page| format!("{page}(1)").replace('-', r"\-"))
        .collect()
}

/// Tells the formatter to leave indented lines as they are: they are commands and tables.
fn keep_lines(page: &str) -> String {
    let mut kept = String::new();
    let mut is_kept = false;
    for line in page.lines() {
        if line.starts_with(' ') != is_kept {
            is_kept = !is_kept;
            kept.push_str(if is_kept { ".nf\n" } else { ".fi\n" });
        }
        kept.push_str(line);
        kept.push('\n');
    }
    if is_kept {
        kept.push_str(".fi\n");
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sections of man-pages(7), in its order; COMMANDS is one of ours.
    const SECTIONS: [&str; 8] = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "EXIT STATUS",
        "EXAMPLES",
        "SEE ALSO",
    ];

    fn pages() -> Vec<(Command, String)> {
        let coracle = coracle();
        let commands = coracle.get_subcommands().chain([&coracle]);
        let pages: Vec<_> = commands
            .map(|command| (command.clone(), page(command, &coracle).unwrap()))
            .collect();
        assert!(pages.len() > 6, "a page for each command");
        pages
    }

    #[test]
    fn every_page_has_the_sections_of_man_pages_7_in_their_order() {
        for (command, page) in pages() {
            let headings = page.lines().filter_map(|line| line.strip_prefix(".SH "));
            let headings: Vec<_> = headings.map(|heading| heading.trim_matches('"')).collect();
            let has = |section: &&str| match *section {
                "COMMANDS" => command.has_subcommands(),
                _ => true,
            };
            let expected: Vec<_> = SECTIONS.into_iter().filter(has).collect();
            assert_eq!(headings, expected, "{page}");
        }
    }

    #[test]
    fn headings_of_the_help_are_no_lines_of_a_page_and_its_other_lines_are() {
        for (command, page) in pages() {
            let plain = page.replace(r"\*(Aq", "'").replace('\\', "");
            assert!(
                !plain.contains("Examples:") && !plain.contains("Exit codes:"),
                "{page}"
            );
            let Some(help) = command.get_after_long_help().or(command.get_after_help()) else {
                continue;
            };
            for line in help.to_string().lines() {
                let text = line.trim_start_matches("Exit codes:").trim();
                assert!(
                    text == "Examples:" || plain.contains(text),
                    "{line:?} is not in:\n{page}"
                );
            }
        }
    }

    #[test]
    fn every_page_names_all_others() {
        for (command, page) in pages() {
            let (_, others) = page.split_once(".SH \"SEE ALSO\"\n").unwrap();
            let own = command.get_display_name().unwrap_or("coracle").to_owned() + "(1)";
            for name in ["coracle(1)", "coracle\\-run(1)", "coracle\\-license(1)"] {
                let is_named = others.trim().split(", ").any(|other| other == name);
                assert_eq!(is_named, name.replace('\\', "") != own, "{name} in {page}");
            }
        }
    }

    #[test]
    fn indented_lines_are_not_filled_and_others_are() {
        assert_eq!(
            keep_lines(".SH EXAMPLES\n  coracle run\n      a shell\n\nOn a terminal\n  end\n"),
            ".SH EXAMPLES\n.nf\n  coracle run\n      a shell\n.fi\n\nOn a terminal\n.nf\n  end\n.fi\n"
        );
    }
}
