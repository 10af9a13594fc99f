//! `coracle exec`: runs a command in a guest that runs.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use coracle_agent_protocol::Program;

use super::environment::{Environment, window_size};
use super::{Error, named, status, system, tell};
use crate::confine;
use crate::console::{Signals, Work, leave_to_parent};
use crate::diagnosis::exit_code;
use crate::guests::{Guest, control};
use crate::program::{Ended, Session, Stdin};

/// How long the agent may take to answer: a guest that has just been started has to boot.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a guest may take to end once its agent is gone: otherwise only the agent is.
const GUEST_END: Duration = Duration::from_secs(3);
/// How long a command may take to end once its terminal has: as long as a guest that coracle stop asks.
const WITHOUT_TERMINAL: Duration = Duration::from_secs(10);

/// What the escape key's help says.
const HELP: &str = "\n\
    Ctrl-A x       quit: kill the command at once; the guest goes on\n\
    Ctrl-A h       this help\n\
    Ctrl-A Ctrl-A  send one Ctrl-A to the command";

/// Run a command in a guest that runs
///
/// The guest is one with a name (coracle ps lists them), and the built-in one, or one with the agent in it (coracle agent).
/// Standard output and standard error arrive apart. Without -i the command's standard input is empty. In a guest of
/// coracle run -d -- COMMAND, the command has COMMAND's environment, directory and user where no option says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle exec web uname -a
      one command; coracle exits with its status
  coracle exec -it web sh
      a shell, on a terminal of its own
  coracle exec -i -w /tmp web tar x <files.tar
      the command reads stdin
  coracle exec -e LANG=C -u 1000:1000 web sh -c 'id; echo $LANG'

What follows the command's first word is the command's, as it is.

A signal that coracle gets is the command's, and a second SIGTERM or a third SIGINT ends the command though it does not obey. If \
coracle is killed, so is the command, and nothing else. When the terminal is closed, the command gets SIGHUP, and is killed if it \
still runs 10 seconds later.

Exit codes: the command's own; 128+N if signal N ended it; 126 if it cannot be executed; 127 if there is no such program; 112 \
quit with Ctrl-A x; 137 the guest ended first; 125 Coracle failed.")]
#[command(group = clap::ArgGroup::new("program").arg("words"))]
pub struct Args {
    /// Let the command read stdin
    #[arg(short, long)]
    interactive: bool,

    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,

    #[command(flatten)]
    environment: Environment,

    /// The user of the guest, and the group, as which the command runs, by name or number [default: root, or COMMAND's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<OsString>,

    /// Turn the escape key off: Ctrl-A goes to the command like any other key
    #[arg(long)]
    no_escape: bool,

    /// The guest's name
    name: String,

    /// The command, and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    words: Vec<OsString>,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let (place, guest) = named::find(&args.name)?;
    let own = guests_own(&guest).ok_or_else(|| {
        Error::Command(format!(
            "the record of guest '{}' is damaged (guest.json in {}), so it is not known as which user its programs run",
            guest.name(),
            place.path_of(guest.name()).display()
        ))
    })?;
    let program = args.program(own)?;
    // Where somebody types into a raw terminal, it is given back even if this process is killed.
    if args.tty && args.interactive {
        leave_to_parent(Work::Command, |child| confine::enter_keeper(child, false));
    }
    let (connection, process) = guest.call_agent(control::PATIENCE)?;
    let stdin = match args.interactive {
        true => Stdin::Ours {
            has_escape: !args.no_escape,
        },
        false => Stdin::Nothing,
    };
    let mut session =
        Session::over(connection, program, stdin, PATIENCE).map_err(system("reach the guest's agent"))?;
    session.expect_end_within(GUEST_END);
    session.end_with_terminal(WITHOUT_TERMINAL);
    session.set_help(HELP);
    let mut signals = Signals::catch().map_err(system("catch signals"))?;
    let ended = session
        .attend(process.as_fd(), &mut signals)
        .map_err(system("wait for the command"))?;
    signals.release();
    if let Some(code) = status::of(&ended, session.take_output_error()) {
        return Ok(code);
    }
    Ok(match ended {
        Ended::Quit => exit_code::QUIT,
        Ended::Signal(number) => exit_code::from_signal(number),
        _ => {
            tell(format_args!(
                "coracle: guest '{}' has ended, and with it the command",
                guest.name()
            ));
            exit_code::from_signal(libc::SIGKILL)
        }
    })
}

/// The program that the guest is for; none of that is said where it is for no program. None if its record makes no sense.
fn guests_own(guest: &Guest) -> Option<Program> {
    match guest.made()?.program {
        Some(own) => own.program().ok(),
        None => Some(Program::default()),
    }
}

impl Args {
    /// The command, which has what the guest's own program has and this command line does not say.
    fn program(&self, own: Program) -> Result<Program, Error> {
        let bytes = |text: &Option<OsString>| text.clone().map(OsString::into_vec);
        let mut environment = own.environment;
        environment.extend(self.environment.variables(self.tty, Vec::new())?);
        Ok(Program {
            arguments: self.words.iter().cloned().map(OsString::into_vec).collect(),
            environment,
            directory: bytes(&self.environment.workdir).or(own.directory),
            user: bytes(&self.user).or(own.user),
            terminal: self.tty.then(window_size),
            ..Program::default()
        })
    }
}
