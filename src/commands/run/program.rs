//! `coracle run -- COMMAND`: one boot of the built-in guest, for one program in it.

use std::io::stderr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use coracle_agent_protocol::{PORT, Program};

use super::boots::facts;
use super::confinement::confine;
use super::{Error, tell};
use crate::commands::{status, system};
use crate::config::Config;
use crate::confine::filter;
use crate::console::{Console, Drain, For, GuestOutput, Signals, borrow, wait};
use crate::diagnosis::{self, InitrdWatch};
use crate::machine::{Machine, OpenFiles, Outcome};
use crate::plain_text;
use crate::program::{Ended, Session, Stdin};
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
    let stdin = Stdin::Ours {
        has_escape: !config.no_escape,
    };
    let session = Session::new(program, stdin);
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
    let ended = session.attend(borrow(running.ended()), &mut signals);
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

    if let Some(code) = status::of(&ended, session.take_output_error()) {
        return Ok(code);
    }
    Ok(match ended {
        Ended::Quit => explain(&Outcome::Quit, &console, &facts),
        Ended::Signal(number) => explain(&Outcome::Signal(number), &console, &facts),
        _ => {
            facts.initrd_failure = initrd.reason();
            explain(&outcome, &console, &facts)
        }
    })
}

fn explain(outcome: &Outcome, console: &Console, facts: &diagnosis::Facts) -> u8 {
    let diagnosis = diagnosis::explain(outcome, &console.tail_of_run(), facts);
    if let Some(explanation) = &diagnosis.explanation {
        tell(explanation);
    }
    diagnosis.exit_code
}
