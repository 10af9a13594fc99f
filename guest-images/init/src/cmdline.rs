//! What the kernel command line says to init.

/// What Coracle tells its guest through the kernel command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `coracle.console=terminal`: a person's terminal is at the other end of the console.
    pub terminal: bool,
    /// `coracle.size=ROWSxCOLS`: the size of that terminal, as rows and columns, neither zero.
    pub size: Option<(u16, u16)>,
    /// `coracle.agent`: the host says what is to be run.
    pub agent: bool,
    /// `coracle.exec`: the host may have programs run at any time.
    pub exec: bool,
    /// `root=`, `rootfstype=`, `rootflags=`, `ro` and `rw`: what Linux would mount as its root without an initrd. Or
    /// `coracle.image=` and `coracle.layer=`: an OCI image, and the writable layer over it.
    pub root: Option<Root>,
    /// `init=`: the program that is to be PID 1 in this one's place.
    pub init: Option<String>,
}

/// A root file system, as the kernel's parameters describe it (Linux admin-guide/kernel-parameters).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Root {
    pub device: String,
    /// The file system's type.
    pub kind: Option<String>,
    /// What the file system is told when it is mounted.
    pub options: Option<String>,
    /// Linux mounts a root read-only and leaves it to init to make it writable.
    pub read_write: bool,
    /// The device of a writable layer over the root, which itself is only read then.
    pub layer: Option<String>,
}

impl Settings {
    /// Reads the settings in `line`; the last of several wins, and one that makes no sense counts as absent.
    pub fn parse(line: &str) -> Self {
        let mut settings = Self::default();
        let mut root = Root::default();
        let (before_dashes, _) = split_at_dashes(line);
        for word in before_dashes {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            match (name, value.map(unquoted)) {
                ("coracle.console", Some(value)) => settings.terminal = value == "terminal",
                ("coracle.size", Some(value)) => settings.size = parse_size(value),
                ("coracle.agent", None) => settings.agent = true,
                ("coracle.exec", None) => settings.exec = true,
                ("root", Some(value)) => root.device = value.into(),
                ("rootfstype", Some(value)) => root.kind = Some(value.into()),
                ("rootflags", Some(value)) => root.options = Some(value.into()),
                // With `root=` Linux would make the initrd's root a ramfs, into which each page is copied.
                ("coracle.image", Some(value)) => {
                    root.device = value.into();
                    root.kind = Some("erofs".into());
                }
                ("coracle.layer", Some(value)) => root.layer = Some(value.into()),
                ("rw", None) => root.read_write = true,
                ("ro", None) => root.read_write = false,
                ("init", Some(value)) => settings.init = Some(value.into()),
                _ => {}
            }
        }
        settings.root = (!root.device.is_empty()).then_some(root);
        settings
    }

    /// What they say to a process that is not the first of its machine. A container sees the command line of the kernel below,
    /// whose root, init and agent are not its own.
    pub fn in_container(self) -> Self {
        Self {
            agent: false,
            exec: false,
            root: None,
            init: None,
            ..self
        }
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

/// A value without the quotes that the kernel takes off, too.
fn unquoted(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
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
