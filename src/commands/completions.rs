//! `coracle completions`: prints a shell's completion script. It is generated from the definitions of the arguments.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Error, print};

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle completions bash > ~/.local/share/bash-completion/completions/coracle
  coracle completions zsh > ~/.zfunc/_coracle
  coracle completions fish > ~/.config/fish/completions/coracle.fish")]
pub struct Args {
    /// The shell that the script is for
    shell: Shell,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "coracle", &mut script);
    print("print completions", script)?;
    Ok(0)
}
