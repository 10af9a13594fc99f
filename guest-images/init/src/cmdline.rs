//! What the kernel command line says to init.

/// What Coracle tells its guest through the kernel command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `coracle.console=terminal`: a person's terminal is at the other end of the console.
    pub terminal: bool,
    /// `coracle.size=ROWSxCOLS`: the size of that terminal, as rows and columns, neither zero.
    pub size: Option<(u16, u16)>,
}

impl Settings {
    /// Reads the settings in `line`; the last of several wins, and one that makes no sense counts as absent.
    pub fn parse(line: &str) -> Self {
        let mut settings = Self::default();
        let (before_dashes, _) = split_at_dashes(line);
        for word in before_dashes {
            match word.split_once('=') {
                Some(("coracle.console", value)) => settings.terminal = value == "terminal",
                Some(("coracle.size", value)) => settings.size = parse_size(value),
                _ => {}
            }
        }
        settings
    }
}

/// The command that init was asked to run, out of init's `arguments`: empty when there is none.
///
/// The kernel hands init the words after `--`, but before them also every bare word that it did not know itself
/// (Linux admin-guide/kernel-parameters): those are no command.
pub fn command(mut arguments: Vec<String>, kernel_command_line: &str) -> Vec<String> {
    let (before_dashes, after_dashes) = split_at_dashes(kernel_command_line);
    let unknown = match after_dashes {
        Some(command) => arguments.len().saturating_sub(command.len()),
        None => arguments
            .iter()
            .take_while(|word| before_dashes.contains(&word.as_str()))
            .count(),
    };
    arguments.split_off(unknown)
}

fn parse_size(text: &str) -> Option<(u16, u16)> {
    let (rows, columns) = text.split_once('x')?;
    let (rows, columns) = (rows.parse().ok()?, columns.parse().ok()?);
    (rows > 0 && columns > 0).then_some((rows, columns))
}

/// The words before the first `--`, and those after it if there is one.
fn split_at_dashes(line: &str) -> (Vec<&str>, Option<Vec<&str>>) {
    let mut words = words(line);
    let Some(dashes) = words.iter().position(|word| *word == "--") else {
        return (words, None);
    };
    let after = words.split_off(dashes + 1);
    words.pop();
    (words, Some(after))
}

/// Splits a line as the kernel does: at white space that is not between double quotes.
fn words(line: &str) -> Vec<&str> {
    let mut quoted = false;
    line.split(|c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    })
    .filter(|word| !word.is_empty())
    .collect()
}

#[cfg(test)]
#[path = "cmdline_test.rs"]
mod tests;
