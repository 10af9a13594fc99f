//! `coracle run -- COMMAND`: one boot of the built-in guest, for one program in it.

use std::io::stderr;
use std::mem;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use coracle_agent_protocol::{PORT, Program};

use super::boots::{expect_agent, facts, with_service};
use super::confinement::confine;
use super::detached::Inherited;
use super::image::Rooted;
use super::{Error, tell};
use crate::commands::{status, system};
use crate::config::Config;
use crate::confine::filter;
use crate::console::{Console, Drain, For, GuestOutput, Pace, Signals, borrow, wait};
use crate::diagnosis::{self, InitrdWatch};
use crate::guests::Own;
use crate::machine::{Machine, OpenFiles, Outcome};
use crate::plain_text;
use crate::program::{Ended, Session, Stdin};
use crate::timeline::{Phase, Timeline};

/// Tells the built-in guest's init that the host says what is to be run.
pub const HINT: &str = "coracle.agent";

/// How long the end waits for a reader of the console.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a guest ended that ran a program: the exit code, and what was said about it.
pub struct Ending {
    pub code: u8,
    pub explanation: Option<String>,
}

/// A guest with a name, for one program.
pub struct Named<'a> {
    pub own: &'a mut Own,
    /// What a run in the background lets go of once its files are open.
    pub inherited: Option<Inherited>,
    /// What the program writes, which goes to the guest's log.
    pub output: &'a Console,
}

/// Boots a guest, runs `program` in it, and returns its exit status, or the code of another end. With `shows_console` what the
/// guest's kernel and init say goes to stderr.
pub fn run(
    (config, rooted): (&Config, Option<&Rooted>),
    program: Program,
    shows_console: bool,
    mut named: Option<Named>,
    timeline: &Timeline,
) -> Result<Ending, Error> {
    let mut image = rooted.map(Rooted::open).transpose()?;
    let files = image.as_mut().map(|image| mem::take(&mut image.files));
    let mut opened = OpenFiles::open_with(config, files.unwrap_or_default())?;
    timeline.mark(Phase::KvmOpened);
    if named.is_some() {
        opened.count_memory();
    }
    let is_detached = named.as_ref().is_some_and(|named| named.own.is_detached());
    let stdin = match is_detached {
        true => Stdin::Nothing,
        false => Stdin::Ours {
            has_escape: !config.no_escape,
        },
    };
    let reach = || system("reach the guest's agent");
    let (mut session, agents_end) = Session::new(program, stdin).map_err(reach())?;
    if let Some(vsock) = &opened.vsock {
        vsock.answer(PORT, agents_end).map_err(reach())?;
    }
    if let Some(Named {
        own,
        inherited,
        output,
    }) = &mut named
    {
        if let Some(inherited) = inherited.take() {
            inherited.leave().map_err(system("leave the directory"))?;
        }
        expect_agent(&opened).map_err(reach())?;
        session.copy_to(output.sink());
        if let Some(tell) = own.starts() {
            session.tell_start(tell);
        }
        own.publish()?;
    }
    confine(config, named.is_some())?;

    let console = Console::default();
    let initrd = Arc::<InitrdWatch>::default();
    let output = initrd.watch(timeline.watch(console.sink()));
    let mut hints = with_service(
        [HINT, rooted.map_or("", |rooted| &rooted.hints)]
            .concat()
            .to_owned(),
        named.as_ref().and_then(|named| named.own.name()),
    );
    if timeline.is_on() {
        hints.push_str(" coracle.clock");
    }
    let mut machine = Machine::build(config, &opened, &hints, output, timeline)?;
    let mut facts = facts(config, &machine);
    // As in boots.rs: after the slow part, and before the machine's threads are started.
    let mut signals = Signals::catch().map_err(system("catch signals"))?;
    let shown = match shows_console {
        true => {
            let stderr = stderr().as_fd().try_clone_to_owned();
            let shown =
                stderr.and_then(|stderr| GuestOutput::start(console.attach(Pace::GuestWaits), stderr));
            Some(shown.map_err(system("show the console"))?)
        }
        false => None,
    };
    if let Some(Named { own, output, .. }) = &mut named {
        own.keep_log_of_program(output)
            .map_err(system("start the program's log"))?;
        own.serve(output).map_err(system("answer other commands"))?;
    }
    timeline.mark(Phase::ConsoleReady);

    if named.is_some() {
        machine.count_exits();
    }
    let running = Arc::new(machine.start()?);
    let control = named.map(|Named { own, .. }| {
        own.note_that_it_runs();
        own.control().clone()
    });
    if let Some(control) = &control {
        control.connect(running.clone());
    }
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
    if let Some(control) = control {
        control.disconnect();
    }
    let outcome = running.wait();
    for line in String::from_utf8_lossy(&console.tail_of_run()).lines() {
        log::debug!("console: {}", plain_text::clean(line));
    }

    if let Some(code) = status::of(&ended, session.take_output_error()) {
        let explanation = None;
        return Ok(Ending { code, explanation });
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

fn explain(outcome: &Outcome, console: &Console, facts: &diagnosis::Facts) -> Ending {
    let diagnosis = diagnosis::explain(outcome, &console.tail_of_run(), facts);
    if let Some(explanation) = &diagnosis.explanation {
        tell(explanation);
    }
    Ending {
        code: diagnosis.exit_code,
        explanation: diagnosis.explanation.map(|explanation| explanation.to_string()),
    }
}
