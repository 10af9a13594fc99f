//! The subcommands, one file each.

mod agent;
mod attach;
mod completions;
mod cp;
mod decimal;
mod doctor;
mod environment;
mod exec;
mod habits;
mod inspect;
mod kill;
mod license;
mod logs;
mod man;
mod named;
mod number;
pub mod oci;
mod pause;
mod prune;
mod ps;
mod race;
mod rename;
mod rm;
mod run;
mod stats;
mod status;
mod stop;
mod wait;

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Parser, Subcommand};
use log::LevelFilter;

use crate::config;
use crate::confine::Layer;
use crate::console::tell;
use crate::diagnosis::exit_code;
use crate::guests;
use crate::machine;
use crate::plain_text::clean;

/// A virtual machine that starts like a container and keeps a kernel of its own.
#[derive(Debug, Parser)]
#[command(
    name = "coracle",
    version,
    arg_required_else_help = true,
    propagate_version = true
)]
#[command(after_help = "\
Examples:
  coracle doctor                     whether this host can run guests, and if not, what to do
  coracle run                        a shell in the built-in guest (Ctrl-A x quits, Ctrl-A h helps)
  coracle run --cpus 4 --memory 1G   the same with more vCPUs and memory
  coracle run -- ls /                one command in the built-in guest
  coracle pull debian:12             gets an image from a registry
  coracle race                       boot time beside containers and other VMMs
  coracle help run                   kernels, disks, exit codes and more examples

Exit codes: `coracle help run` lists them; 125 if the arguments are not understood.")]
pub struct Cli {
    /// Print more messages to stderr; twice for every message
    // After a command's own options, which count from 0.
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 900)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Exec(exec::Args),
    Cp(cp::Args),
    Agent(agent::Args),
    Ps(ps::Args),
    Attach(attach::Args),
    Logs(logs::Args),
    Inspect(inspect::Args),
    Pause(pause::PauseArgs),
    Unpause(pause::UnpauseArgs),
    Stats(stats::Args),
    Wait(wait::Args),
    Stop(stop::Args),
    Kill(kill::Args),
    Rename(rename::Args),
    Rm(rm::Args),
    Prune(prune::Args),
    Pull(oci::pull::Args),
    Images(oci::images::Args),
    Rmi(oci::rmi::Args),
    Tag(oci::tag::Args),
    Load(oci::load::Args),
    Save(oci::save::Args),
    Import(oci::import::Args),
    History(oci::history::Args),
    Login(oci::login::Args),
    Logout(oci::logout::Args),
    Doctor(doctor::Args),
    Race(race::Args),
    Completions(completions::Args),
    Man(man::Args),
    License(license::Args),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("{}", doctor::with_advice(.0, doctor::Host::read))]
    Machine(#[from] machine::Error),
    #[error(transparent)]
    Limit(#[from] machine::LimitReached),
    #[error(
        "this host cannot confine the process in every way, as --confine require asks:\n{}\n  try: --confine auto, which \
         runs with less; coracle doctor shows all",
        lines(.0)
    )]
    NotConfined(Vec<Layer>),
    #[error(
        "cannot become user and group {user}: {source} (only root can; anybody else leaves --host-user out)"
    )]
    User { user: config::User, source: io::Error },
    #[error("{0}")]
    Command(String),
    #[error("cannot read the variables in {file:?}: {source}")]
    EnvFile {
        file: std::path::PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Guest(#[from] guests::Error),
    #[error("{}", clean(&.0.to_string()))]
    Image(#[from] coracle_images::Error),
    /// A signal ended the work on an image. What was got stays.
    #[error("stopped before it was done; repeat the command to go on from there")]
    Interrupted(i32),
    /// Another process has told the person, and ended with this exit code.
    #[error("another process failed")]
    Told(u8),
    #[error(transparent)]
    Race(#[from] coracle_race::Error),
    #[error(transparent)]
    Timings(#[from] crate::timings::Error),
    /// Not told to the person, as other programs do not tell it that end by SIGPIPE.
    #[error("nobody reads stdout any more")]
    StdoutClosed,
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

impl Error {
    /// Whether the person is to be told of it.
    pub fn is_news(&self) -> bool {
        !matches!(self, Self::StdoutClosed | Self::Told(_))
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::StdoutClosed => exit_code::STDOUT_CLOSED,
            Self::Told(code) => *code,
            Self::Interrupted(signal) => exit_code::from_signal(*signal),
            Self::Image(error) if error.is_missing() => exit_code::FILE_MISSING,
            Self::Config(error) if error.is_missing_file() => exit_code::FILE_MISSING,
            Self::EnvFile { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                exit_code::FILE_MISSING
            }
            Self::Machine(error) if error.is_missing_file() => exit_code::FILE_MISSING,
            Self::Machine(error) if error.is_host() => exit_code::HOST_CANNOT,
            Self::NotConfined(_) => exit_code::HOST_CANNOT,
            Self::Race(coracle_race::Error::Interrupted(signal)) => exit_code::from_signal(*signal),
            _ => exit_code::FAILED,
        }
    }
}

/// One command alone, which means the same as in [`Cli`].
#[derive(Parser)]
struct Alone<C: Subcommand> {
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: C,
}

#[derive(Subcommand)]
enum RunAlone {
    Run(Box<run::Args>),
}

#[derive(Subcommand)]
enum ExecAlone {
    Exec(exec::Args),
}

impl Cli {
    /// Understands the arguments of this process.
    ///
    /// To define all commands takes longer than to define one, and with `run` and `exec` somebody waits for a program. So these
    /// are tried alone at first. Whatever that does not understand, or is asked to explain, is left to the definition of all.
    pub fn of_process() -> Result<Self, clap::Error> {
        let word = env::args_os().nth(1).unwrap_or_default();
        let alone = match word.to_str() {
            Some("run") => Alone::try_parse().ok().map(|alone| {
                let RunAlone::Run(args) = alone.command;
                (alone.verbose, Command::Run(args))
            }),
            Some("exec") => Alone::try_parse().ok().map(|alone| {
                let ExecAlone::Exec(args) = alone.command;
                (alone.verbose, Command::Exec(args))
            }),
            _ => None,
        };
        match alone {
            Some((verbose, command)) => Ok(Self { verbose, command }),
            None => Self::try_parse(),
        }
    }

    /// Which messages are logged if the environment variable RUST_LOG does not say otherwise.
    pub fn log_level(&self) -> LevelFilter {
        match self.verbose {
            0 => LevelFilter::Warn,
            1 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        }
    }

    /// Carries the command out and returns the exit code. `started` is when the process started, as a time of
    /// [`monotonic`].
    ///
    /// [`monotonic`]: crate::clock::monotonic
    pub fn execute(&self, started: Duration) -> Result<u8, Error> {
        match &self.command {
            Command::Run(args) => run::execute(args, started),
            Command::Exec(args) => exec::execute(args),
            Command::Cp(args) => cp::execute(args),
            Command::Agent(args) => agent::execute(args),
            Command::Ps(args) => ps::execute(args),
            Command::Attach(args) => attach::execute(args),
            Command::Logs(args) => logs::execute(args),
            Command::Inspect(args) => inspect::execute(args),
            Command::Pause(args) => pause::pause(args),
            Command::Unpause(args) => pause::unpause(args),
            Command::Wait(args) => wait::execute(args),
            Command::Stats(args) => stats::execute(args),
            Command::Stop(args) => stop::execute(args),
            Command::Rename(args) => rename::execute(args),
            Command::Prune(args) => prune::execute(args),
            Command::Kill(args) => kill::execute(args),
            Command::Rm(args) => rm::execute(args),
            Command::Pull(args) => oci::pull::execute(args),
            Command::Images(args) => oci::images::execute(args),
            Command::Rmi(args) => oci::rmi::execute(args),
            Command::Tag(args) => oci::tag::execute(args),
            Command::Load(args) => oci::load::execute(args),
            Command::Save(args) => oci::save::execute(args),
            Command::Import(args) => oci::import::execute(args),
            Command::Login(args) => oci::login::execute(args),
            Command::Logout(args) => oci::logout::execute(args),
            Command::History(args) => oci::history::execute(args),
            Command::Doctor(args) => doctor::execute(args),
            Command::Race(args) => race::execute(args),
            Command::Completions(args) => completions::execute(args),
            Command::Man(args) => man::execute(args),
            Command::License(args) => license::execute(args),
        }
    }
}

/// Prints why the arguments of this process cannot be used, or the help that they ask for, and gives the exit code.
pub fn print_refusal(error: &clap::Error) -> u8 {
    let arguments: Vec<_> = env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    const WHAT: &str = "print what was asked for";
    let is_asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let printed = match habits::answer(error, &arguments) {
        Some(answer) => {
            tell(format_args!("coracle: {answer}"));
            Ok(())
        }
        // The other way says nothing of a stdout that is closed.
        None if is_asked_for && !io::stdout().is_terminal() => print(WHAT, error.render().to_string()),
        None => error.print().map_err(system(WHAT)),
    };
    match (is_asked_for, printed) {
        (true, Ok(())) => 0,
        (true, Err(error)) => {
            if error.is_news() {
                tell(format_args!("coracle: {error}"));
            }
            error.exit_code()
        }
        // A refusal goes to stderr. If it cannot be printed there, the exit code is all that tells.
        (false, _) => exit_code::FAILED,
    }
}

/// Prints `text` on stdout; `what` says in an error what could not be done.
fn print(what: &'static str, text: impl AsRef<[u8]>) -> Result<(), Error> {
    // The standard library's own says nothing of a stdout that is closed.
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    match stdout.and_then(|mut stdout| stdout.write_all(text.as_ref())) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::StdoutClosed),
        printed => printed.map_err(system(what)),
    }
}

/// The layers, a line each.
fn lines(layers: &[Layer]) -> String {
    let lines: Vec<_> = layers.iter().map(|layer| format!("  {layer}")).collect();
    lines.join("\n")
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

#[cfg(test)]
#[path = "help_test.rs"]
mod help_tests;
