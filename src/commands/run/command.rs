//! The command of `coracle run [OPTIONS] IMAGE [COMMAND]` or `coracle run [OPTIONS] -- COMMAND`, and the options that are about it.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, stdin, stdout};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use coracle_agent_protocol::{Error as AgentError, Program};

use super::super::Error;
use super::super::environment::{Environment, window_size};
use super::image::{self, Rooted};
use crate::config::{Config, OnReboot};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("program").arg("image"))]
pub struct Command {
    #[command(flatten)]
    environment: Environment,

    /// The user of the guest, and the group, as which COMMAND runs, by name or number; Coracle's own process has --host-user [default: the image's, or root]
    #[arg(short, long, value_name = "USER[:GROUP]", requires = "image")]
    user: Option<OsString>,

    /// Give COMMAND a terminal, even if stdin or stdout is none
    #[arg(short, long)]
    tty: bool,

    /// Nothing, as stdin always reaches COMMAND but with -d, where nothing does; for fingers that type -it
    #[arg(short, long)]
    interactive: bool,

    /// The guest's name for itself [default: that of --name, or of -d]
    #[arg(long, value_name = "NAME", requires = "image")]
    hostname: Option<OsString>,

    /// Show the guest's console on stderr, with what its kernel says
    #[arg(long, requires = "image")]
    pub console: bool,

    #[command(flatten)]
    pub of_image: image::Options,

    /// An OCI image, which is pulled if it is not here. Behind two dashes: a command for the built-in guest
    #[arg(value_name = "IMAGE")]
    image: Option<OsString>,

    /// The command that runs in the image, in place of the one that the image says. Coracle exits with its status
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

/// What is to run.
pub struct What<'a> {
    /// Nothing means the built-in guest.
    pub image: Option<&'a OsStr>,
    /// The command. Nothing means that of the image, or none.
    pub command: Vec<&'a OsStr>,
}

impl Command {
    /// What is to run, where `arguments` are all those of the process.
    pub fn what(&self, arguments: &[OsString]) -> What<'_> {
        // The words are what the arguments end with. Behind dashes the first is no image.
        let count = self.words.len() + usize::from(self.image.is_some());
        let before = arguments.len().checked_sub(count + 1);
        let is_behind_dashes = before.is_some_and(|before| arguments[before] == "--");
        let rest = self.words.iter().map(OsString::as_os_str);
        match &self.image {
            Some(first) if is_behind_dashes => What {
                image: None,
                command: [first.as_os_str()].into_iter().chain(rest).collect(),
            },
            image => What {
                image: image.as_deref(),
                // Nothing has that name.
                command: rest.skip_while(|word| *word == "--").collect(),
            },
        }
    }

    /// The command as the agent gets it; nothing if there is none. `config` is checked, and gets what a command needs. One that
    /// `is_detached` has nothing to do with the person's terminal.
    pub fn program(
        &self,
        config: &mut Config,
        (rooted, command): (Option<&Rooted>, &[&OsStr]),
        is_detached: bool,
    ) -> Result<Option<Program>, Error> {
        let refused = |why: &str| Err(Error::Command(why.into()));
        if self.of_image.has_own_init() {
            return match command.is_empty() {
                true => Ok(None),
                false => refused(
                    "with --init=WHAT no command runs beside the image's init: leave one of the two out",
                ),
            };
        }
        if rooted.is_none() && command.is_empty() {
            return Ok(None);
        }
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
        let variables = rooted.map(Rooted::environment).unwrap_or_default();
        let environment = self.environment.variables(is_terminal, variables)?;
        let arguments = match rooted {
            Some(rooted) => self.of_image.words(rooted, command)?,
            None => command.iter().map(|word| word.as_bytes().to_vec()).collect(),
        };
        let bytes = |text: &Option<OsString>| text.clone().map(OsString::into_vec);
        // An empty text asks for what the image says, as with Docker.
        let chosen = |text: &Option<OsString>| bytes(text).filter(|text| !text.is_empty());
        if self
            .hostname
            .as_ref()
            .is_some_and(|name| !(1..=64).contains(&name.len()))
        {
            return refused("a host name has 1 to 64 bytes");
        }
        let program = Program {
            arguments,
            environment,
            directory: chosen(&self.environment.workdir).or_else(|| rooted?.directory()),
            user: chosen(&self.user).or_else(|| rooted?.user()),
            host_name: bytes(&self.hostname),
            terminal: is_terminal.then(window_size),
            makes_directory: true,
            tmpfs: self.of_image.tmpfs()?,
            read_only: self.of_image.read_only,
            stop_signal: rooted.map_or(Ok(None), Rooted::stop_signal)?,
        };
        // What the image says may be anything. The agent would end the guest.
        match program.check() {
            Err(AgentError::OutOfBounds(what)) => refused(&format!(
                "the command cannot be run: the image, or a flag, gives {what}"
            )),
            Err(_) | Ok(()) => Ok(Some(program)),
        }
    }
}
