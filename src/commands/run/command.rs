//! The command of `coracle run [OPTIONS] -- COMMAND`, and the options that are about it.

use std::ffi::OsString;
use std::io::{IsTerminal, stdin, stdout};
use std::os::unix::ffi::OsStringExt;

use coracle_agent_protocol::Program;

use super::super::Error;
use super::super::environment::{Environment, window_size};
use crate::config::{Config, OnReboot};

#[derive(Debug, clap::Args)]
pub struct Command {
    #[command(flatten)]
    environment: Environment,

    /// The user of the guest, and the group, as which COMMAND runs, by name or number; Coracle's own process has --host-user [default: root]
    #[arg(short, long, value_name = "USER[:GROUP]", requires = "words")]
    user: Option<OsString>,

    /// Give COMMAND a terminal, even if stdin or stdout is none
    #[arg(short, long)]
    tty: bool,

    /// Nothing, as stdin always reaches COMMAND but with -d, where nothing does; for fingers that type -it
    #[arg(short, long)]
    interactive: bool,

    /// The guest's name for itself [default: that of --name, or of -d]
    #[arg(long, value_name = "NAME", requires = "words")]
    hostname: Option<OsString>,

    /// Show the guest's console on stderr, with what its kernel says
    #[arg(long, requires = "words")]
    pub console: bool,

    /// A command for the built-in guest, and its arguments: coracle exits with its status
    #[arg(last = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

impl Command {
    /// Whether there is a command.
    pub fn is_given(&self) -> bool {
        !self.words.is_empty()
    }

    /// The command as the agent gets it; nothing if there is none. `config` is checked, and gets what a command needs. One that
    /// `is_detached` has nothing to do with the person's terminal.
    pub fn program(&self, config: &mut Config, is_detached: bool) -> Result<Option<Program>, Error> {
        if !self.is_given() {
            return Ok(None);
        }
        let refused = |why: &str| Err(Error::Command(why.into()));
        if config.kernel.is_some() || config.initrd.is_some() {
            return refused("a command runs in the built-in guest: leave out --kernel and --initrd");
        }
        if config.on_reboot == OnReboot::Restart {
            return refused("a command runs once: leave out --on-reboot restart");
        }
        let (_, other) = crate::boot::parameters::split(&config.cmdline);
        if !other.trim().is_empty() {
            return refused("there are two commands: leave out the one in --cmdline");
        }
        if is_detached && self.interactive {
            return refused(
                "a command in the background reads no stdin: leave out -i (coracle exec -it NAME sh gives a shell beside it)",
            );
        }
        config.vsock.get_or_insert_default();

        let is_terminal = self.tty || !is_detached && stdin().is_terminal() && stdout().is_terminal();
        let environment = self.environment.variables(is_terminal)?;
        let bytes = |text: &Option<OsString>| text.clone().map(OsString::into_vec);
        if self
            .hostname
            .as_ref()
            .is_some_and(|name| !(1..=64).contains(&name.len()))
        {
            return refused("a host name has 1 to 64 bytes");
        }
        Ok(Some(Program {
            arguments: self.words.iter().cloned().map(OsString::into_vec).collect(),
            environment,
            directory: bytes(&self.environment.workdir),
            user: bytes(&self.user),
            host_name: bytes(&self.hostname),
            terminal: is_terminal.then(window_size),
        }))
    }
}
