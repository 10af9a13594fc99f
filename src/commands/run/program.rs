//! `coracle run -- COMMAND`: one boot of the built-in guest, for one program in it.

use std::io::{self, stderr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use coracle_agent_protocol::{PORT, Program, Reason};

use super::boots::facts;
use super::confinement::confine;
use super::{Error, tell};
use crate::commands::system;
use crate::config::Config;
use crate::confine::filter;
use crate::console::{Console, Drain, For, GuestOutput, Signals, borrow, wait};
use crate::diagnosis::{self, InitrdWatch, exit_code};
use crate::machine::{Machine, OpenFiles, Outcome};
use crate::plain_text;
use crate::program::{Ended, Session};
use crate::timeline::{Phase, Timeline};

/// Tells the built-in guest's init that the host says what is to be run.
pub const HINT: &str = "coracle.agent";

/// How long the end waits for a reader of the console.
const PATIENCE: Duration = Duration::from_secs(1);

/// Boots a guest, runs `program` in it, and returns its exit status, or the code of another end. With `shows_console` what the
/// guest's kernel and init say goes to stderr.
pub fn run(config: &Config, program: Program, shows_console: bool, timeline: &Timeline) -> Result<u8, Error> {
    let opened = OpenFiles::open(config)?;
    timeline.mark(Phase::KvmOpened);
    let session = Session::new(program, !config.no_escape);
    let (mut session, agents_end) = session.map_err(system("reach the guest's agent"))?;
    if let Some(vsock) = &opened.vsock {
        vsock
            .answer(PORT, agents_end)
            .map_err(system("reach the guest's agent"))?;
    }
    confine(config, false)?;

    let console = Console::default();
    let initrd = Arc::<InitrdWatch>::default();
    let output = initrd.watch(timeline.watch(console.sink()));
    let mut hints = HINT.to_owned();
    if timeline.is_on() {
        hints.push_str(" coracle.clock");
    }
    let machine = Machine::build(config, &opened, &hints, output, timeline)?;
    let mut facts = facts(config, &machine);
    // As in boots.rs: after the slow part, and before the machine's threads are started.
    let mut signals = Signals::catch().map_err(system("catch signals"))?;
    let shown = match shows_console {
        true => {
            let stderr = stderr().as_fd().try_clone_to_owned();
            let shown = stderr.and_then(|stderr| GuestOutput::start(&console, stderr));
            Some(shown.map_err(system("show the console"))?)
        }
        false => None,
    };
    timeline.mark(Phase::ConsoleReady);

    let running = machine.start()?;
    if let Err(error) = running.outlast_process() {
        log::debug!("the end waits until the host's kernel has taken the VM apart: {error}");
    }
    filter::narrow(filter::Kind::Main);
    let ended = session.attend(Some(running.ended()), &mut signals);
    let ended = ended.map_err(system("wait for the guest"))?;
    timeline.end();
    running.end(Outcome::Quit);
    console.end();
    if let Some(shown) = shown {
        shown.close(Drain::AtOnce);
        let written = [Some(For::Reading(borrow(shown.finished())))];
        wait(written, Some(PATIENCE)).map_err(system("show the console"))?;
    }
    // The next signal ends this process, however long a disk hangs.
    signals.release();
    let outcome = running.wait();
    for line in String::from_utf8_lossy(&console.tail_of_run()).lines() {
        log::debug!("console: {}", plain_text::clean(line));
    }

    let code = match ended {
        Ended::Exited(0) if let Some(error) = session.take_output_error() => {
            tell(format_args!(
                "coracle: cannot write the program's output: {error}"
            ));
            exit_code::FAILED
        }
        Ended::Exited(status) => status,
        Ended::Killed(signal) => exit_code::from_signal(signal.into()),
        Ended::NotStarted(failure) => {
            tell(format_args!("coracle: {}", plain_text::clean(&failure.text)));
            match failure.reason {
                Reason::NotFound => exit_code::FILE_MISSING,
                Reason::NotExecutable => exit_code::HOST_CANNOT,
                Reason::Other => exit_code::FAILED,
            }
        }
        Ended::Agent(error) => {
            match error.kind() {
                io::ErrorKind::InvalidData => tell(format_args!(
                    "coracle: the agent in the guest is not understood: {error}"
                )),
                _ => tell("coracle: the agent in the guest is gone, and with it the command"),
            }
            exit_code::FAILED
        }
        Ended::Quit => explain(&Outcome::Quit, &console, &facts),
        Ended::Signal(number) => explain(&Outcome::Signal(number), &console, &facts),
        Ended::Machine => {
            facts.initrd_failure = initrd.reason();
            explain(&outcome, &console, &facts)
        }
    };
    Ok(code)
}

fn explain(outcome: &Outcome, console: &Console, facts: &diagnosis::Facts) -> u8 {
    let diagnosis = diagnosis::explain(outcome, &console.tail_of_run(), facts);
    if let Some(explanation) = &diagnosis.explanation {
        tell(explanation);
    }
    diagnosis.exit_code
}
