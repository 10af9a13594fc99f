//! `coracle man`: prints the manual pages. They are generated from the definitions of the arguments.

use std::io;

use clap::{Command, CommandFactory};

use super::{Cli, Error, print, system};

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
    let page = page(args.command.as_deref()).ok_or_else(|| {
        let unknown = args.command.clone().unwrap_or_default();
        system(WHAT)(io::Error::other(format!(
            "there is no command '{unknown}' (coracle help lists them)"
        )))
    })?;
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .source(concat!("coracle ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)
        .map_err(system(WHAT))?;
    // The generator gives the text after the options no better name, and that text begins with a heading of its own.
    let text = String::from_utf8_lossy(&text)
        .replace(".SH EXTRA\n", ".SH EXAMPLES\n")
        .replace(".SH EXAMPLES\nExamples:\n", ".SH EXAMPLES\n");
    print(WHAT, keep_lines(&text))?;
    Ok(0)
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

/// The command of this name, or coracle itself without a name.
fn page(name: Option<&str>) -> Option<Command> {
    let mut coracle = Cli::command();
    coracle.build();
    match name {
        None => Some(coracle),
        Some(name) => coracle.find_subcommand(name).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_lines_are_not_filled_and_others_are() {
        assert_eq!(
            keep_lines(".SH EXAMPLES\n  coracle run\n      a shell\n\nOn a terminal\n  end\n"),
            ".SH EXAMPLES\n.nf\n  coracle run\n      a shell\n.fi\n\nOn a terminal\n.nf\n  end\n.fi\n"
        );
    }
}
