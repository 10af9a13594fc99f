//! `coracle attach`: this terminal on the console of a guest that runs.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::stop::ask_to_power_off;
use super::{Error, named, system, tell};
use crate::confine;
use crate::console::{
    Drain, FarKeyboard, Session, Signals, Steered, StopReason, Work, ignore_file_size_limit, leave_to_parent,
    show_far, terminal_size,
};
use crate::diagnosis::exit_code;
use crate::guests::control::{Attachment, PATIENCE};
use crate::guests::{Ended, Guest};
use crate::plain_text::clean;

/// Rows of what is no terminal.
const ROWS: u16 = 24;

/// Attach this terminal to the console of a guest that runs
///
/// The last lines that the guest has printed come first. All keys, also Ctrl-C, go to the guest, but for the escape key: Ctrl-A d
/// detaches, and Ctrl-A h lists all. Several terminals can be attached at the same time.
///
/// Without a terminal, the guest gets what is read from stdin, and its output is written until it ends. A guest of
/// coracle run -- COMMAND only has output: what COMMAND writes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle attach web
      until Ctrl-A d, after which the guest runs on
  coracle attach web </dev/null >console.txt
      what the guest prints until it ends

Exit codes: the guest's own at its end, as coracle wait prints it; 0 after Ctrl-A d; 128+N ended by signal N, and the guest runs \
on.")]
pub struct Args {
    /// Name of the guest
    name: String,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let (_, guest) = named::find(&args.name)?;
    ignore_file_size_limit();
    leave_to_parent(Work::Attached, |child| confine::enter_keeper(child, false));
    let Attachment { socket, past } = guest.attach(PATIENCE)?;
    let has_program = guest.made().is_some_and(|made| made.program.is_some());
    if has_program && io::stdin().is_terminal() {
        tell(format_args!(
            "coracle: this is what the command of guest '{name}' writes; it gets no keys (coracle exec -it {name} sh gives a \
             shell beside it; Ctrl-A d detaches)",
            name = guest.name()
        ));
    }
    attend(guest, socket, &past)
}

fn attend(guest: Guest, socket: std::os::unix::net::UnixStream, past: &[u8]) -> Result<u8, Error> {
    const WHAT: &str = "attach to the console";
    let name = guest.name().clone();
    let mut signals = Signals::catch().map_err(system("catch signals"))?;
    let keys = socket.try_clone().map(FarKeyboard::new).map_err(system(WHAT))?;
    let rows = terminal_size().map_or(ROWS, |(rows, _)| rows);
    let far = show_far(
        name.as_str(),
        socket,
        past,
        rows.into(),
        io::stdout().is_terminal(),
    )
    .map_err(system(WHAT))?;
    let (console, ended) = (far.console.clone(), far.ended.clone());
    // It looks at the guest from now on, since another command may remove what is left of it once it has ended.
    let guest = Arc::new(guest);
    let looking = guest.clone();
    let end = thread::spawn(move || looking.wait());
    let session = Session::open_far(far, Box::new(keys), Arc::new(Far(guest)), &signals);
    let mut session = session.map_err(system("use stdin and stdout"))?;
    let stop = session.attend(&ended, &mut signals).map_err(system(WHAT))?;
    let goes_on = |how: &str| {
        let new_line = match console.tail_of_run().last() {
            Some(b'\n') | None => "",
            Some(_) if !io::stdout().is_terminal() => "",
            Some(_) => "\n",
        };
        tell(format_args!(
            "{new_line}coracle: {how} guest '{name}', which runs on (coracle attach {name} returns to it)"
        ));
    };
    let Some(reason) = stop else {
        let wait = || end.join();
        let (end, later) = session
            .close_during(Drain::All, &mut signals, wait)
            .map_err(system("wait for the end of the guest"))?;
        if let Some(error) = session.take_output_error() {
            return lost(error);
        }
        return match (end, later) {
            (_, Some(StopReason::Signal(number))) => Ok(exit_code::from_signal(number)),
            (Ok(ended), _) => Ok(report(name.as_str(), ended?)),
            // It has been reported.
            (Err(_), _) => Ok(exit_code::BUG),
        };
    };
    session
        .close(Drain::AtOnce, &mut signals)
        .map_err(system("wait for the console's reader"))?;
    match reason {
        StopReason::Detach | StopReason::Quit | StopReason::Stop => {
            goes_on("detached from");
            Ok(0)
        }
        StopReason::Signal(number) => {
            goes_on(&format!("signal {number} detached from"));
            Ok(exit_code::from_signal(number))
        }
        StopReason::OutputLost(error) => lost(error),
    }
}

/// The guest of another process, as the keys steer it.
struct Far(Arc<Guest>);

impl Steered for Far {
    fn ask_to_stop(&self) -> Result<(), String> {
        let asked = ask_to_power_off(&self.0, Instant::now() + PATIENCE);
        asked.map_err(|error| error.to_string())
    }

    fn pause_or_resume(&self) -> Result<bool, String> {
        let pauses = !self.0.is_paused();
        let path = if pauses { "/pause" } else { "/resume" };
        let asked = self.0.ask("PUT", path, PATIENCE);
        asked.map(|_| pauses).map_err(|error| error.to_string())
    }
}

fn lost(error: io::Error) -> Result<u8, Error> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Err(Error::StdoutClosed),
        _ => Err(system("write what the guest prints")(error)),
    }
}

/// Says how the guest has ended, and gives its exit code.
fn report(name: &str, ended: Option<Ended>) -> u8 {
    let Some(ended) = ended else {
        tell(format_args!(
            "coracle: the process of guest '{name}' was killed, so there is no exit code of it"
        ));
        return exit_code::from_signal(libc::SIGKILL);
    };
    if let Some(explanation) = &ended.explanation {
        let lines: Vec<_> = explanation.lines().map(clean).collect();
        tell(lines.join("\n"));
    }
    ended.exit_code
}
