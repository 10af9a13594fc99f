//! `coracle completions`: for the shell, from the same source as the arguments themselves.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Error};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle completions bash > ~/.local/share/bash-completion/completions/coracle
  coracle completions zsh > ~/.zfunc/_coracle
  coracle completions fish > ~/.config/fish/completions/coracle.fish")]
pub struct Args {
    /// Which shell
    shell: Shell,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "coracle", &mut script);
    let written = io::stdout().write_all(&script);
    written.map(|()| 0).map_err(|source| Error::System {
        what: "print completions",
        source,
    })
}
