//! The boots of a run: one, or with `--on-reboot restart` one after the other on the same console.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use super::confinement::confine;
use super::{Error, OnReboot};
use crate::boot::parameters;
use crate::commands::system;
use crate::config::Config;
use crate::console::{Drain, GuestOutput, Session, Source, StopReason, terminal_size};
use crate::diagnosis::{self, Diagnosis, Facts, InitrdWatch, exit_code};
use crate::machine::{LimitReached, Machine, OpenFiles, Outcome};
use crate::timeline::{Phase, Timeline};

/// What all boots of a run share.
pub struct Boots<'a> {
    config: &'a Config,
    /// The machine's files: opened for the first boot, and used again by the later ones.
    opened: Option<OpenFiles>,
    /// The console, which is kept here between two boots. During a boot there is nothing here.
    session: Option<Session>,
}

/// A machine that can start, and its console.
struct Ready {
    machine: Machine,
    /// Looks at the output for what the kernel says of the initrd.
    initrd: Arc<InitrdWatch>,
    session: Session,
    /// Why the run is to stop before the machine starts, if it is.
    stop: Option<StopReason>,
}

impl<'a> Boots<'a> {
    pub fn new(config: &'a Config) -> Self {
        Self {
            config,
            opened: None,
            session: None,
        }
    }

    /// Boots the machine once and waits for its end. Returns the diagnosis, or nothing if the guest is to boot again. When
    /// there is a diagnosis, the terminal has been given back to the person.
    pub fn next(&mut self, timeline: &Timeline) -> Result<Option<Diagnosis>, Error> {
        let Ready {
            machine,
            initrd,
            mut session,
            stop,
        } = self.make_ready(timeline)?;
        let mut facts = self.facts(&machine);
        if let Some(reason) = stop {
            let diagnosis = diagnosis::explain(&reason.into(), &session.output().tail_of_run(), &facts);
            return Ok(Some(diagnosis));
        }
        timeline.mark(Phase::ConsoleReady);

        let running = machine.start()?;
        let serial = running.serial().clone();
        let stop = session
            .attend(running.ended(), &serial)
            .map_err(system("wait for the guest"))?;
        timeline.end();

        let may_boot_again = stop.is_none() && self.config.on_reboot == OnReboot::Restart;
        let finish = || running.finish();
        let finished = match (&stop, may_boot_again) {
            (_, true) => session.stay_during(finish),
            (None, false) => session.close_during(Drain::All, finish),
            (Some(_), _) => session.close_during(Drain::AtOnce, finish),
        };
        let (outcome, later) = finished.map_err(system("wait for the end of the guest"))?;
        // KVM starts a thread of its own when the first vCPU first runs.
        if let Outcome::RunFailed(error) = &outcome
            && let Some(limit) = LimitReached::behind(error)
        {
            return Err(limit.into());
        }
        let mut stop = stop.or(later);
        facts.initrd_failure = initrd.reason();
        if may_boot_again && stop.is_none() {
            let tail = session.output().tail_of_boot();
            if diagnosis::explain(&outcome, &tail, &facts).exit_code == exit_code::REBOOTED {
                self.session = Some(session);
                return Ok(None);
            }
            stop = session
                .close(Drain::All)
                .map_err(system("wait for the console's reader"))?;
        }
        let output = session.output();
        let diagnosis = match stop {
            // In a restart loop this boot may have had no time to print anything.
            Some(reason) => diagnosis::explain(&reason.into(), &output.tail_of_run(), &facts),
            None => {
                let outcome = lost_output(outcome, output.take_error());
                diagnosis::explain(&outcome, &output.tail_of_boot(), &facts)
            }
        };
        Ok(Some(diagnosis))
    }

    /// Builds the machine, and opens the session with the first one.
    fn make_ready(&mut self, timeline: &Timeline) -> Result<Ready, Error> {
        let config = self.config;
        let opened = match &self.opened {
            Some(opened) => opened,
            None => {
                let opened = self.opened.insert(OpenFiles::open(config)?);
                timeline.mark(Phase::KvmOpened);
                confine(config)?;
                opened
            }
        };
        let mut hints = console_hints();
        if timeline.is_on() {
            hints.push_str(" coracle.clock");
        }
        if let Some(mut session) = self.session.take() {
            session.output().begin_boot();
            let initrd = Arc::<InitrdWatch>::default();
            let console = initrd.watch(timeline.watch(session.output().sink()));
            let build = || Machine::build(config, opened, &hints, console, timeline);
            let (machine, stop) = session
                .stay_during(build)
                .map_err(system("wait for the next boot"))?;
            return Ok(Ready {
                machine: machine?,
                initrd,
                session,
                stop,
            });
        }
        let output = GuestOutput::new().map_err(system("make the console"))?;
        let initrd = Arc::<InitrdWatch>::default();
        let console = initrd.watch(timeline.watch(output.sink()));
        let machine = Machine::build(config, opened, &hints, console, timeline)?;
        // From here on signals wait for the session. So it is opened only after the slow part, during which a signal ends
        // the process as usual, but before the threads of the machine are started, which must not receive signals.
        let session = Session::open(output, source(config)).map_err(system("use stdin and stdout"))?;
        Ok(Ready {
            machine,
            initrd,
            session,
            stop: None,
        })
    }

    fn facts(&self, machine: &Machine) -> Facts {
        let config = self.config;
        Facts {
            memory_mib: config.memory.0 >> 20,
            has_initrd: machine.has_initrd(),
            has_disk: !config.disks.is_empty(),
            built_in: config.kernel.is_none(),
            command_line: machine.command_line().to_owned(),
            initrd_failure: None,
        }
    }
}

impl From<StopReason> for Outcome {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::Quit => Self::Quit,
            StopReason::Signal(number) => Self::Signal(number),
            StopReason::OutputLost(error) => Self::ConsoleLost(error),
        }
    }
}

/// The outcome of a run whose console output could not be written to the end. Without its last lines a good end of the
/// guest is not a good end of the run.
fn lost_output(outcome: Outcome, error: Option<io::Error>) -> Outcome {
    match (outcome, error) {
        (Outcome::PoweredOff | Outcome::Reset | Outcome::Halted, Some(error)) => Outcome::ConsoleLost(error),
        (outcome, _) => outcome,
    }
}

/// What the guest gets of stdin. The built-in guest's demonstration reads nothing, so what is in a pipe is left to
/// whoever reads it next.
fn source(config: &Config) -> Source {
    match !io::stdin().is_terminal() && is_demonstration(config) {
        true => Source::Nothing,
        false => Source::Stdin {
            escape: !config.no_escape,
        },
    }
}

/// Whether the built-in guest has nothing else to do, away from a terminal, than to show itself.
fn is_demonstration(config: &Config) -> bool {
    const OTHER_WORK: [&str; 4] = ["root", "init", "rdinit", "coracle.console"];
    let (_, command) = parameters::split(&config.cmdline);
    let has_other_work = !command.trim().is_empty()
        || OTHER_WORK
            .iter()
            .any(|name| parameters::names(&config.cmdline, name));
    config.kernel.is_none() && config.initrd.is_none() && !has_other_work
}

/// Kernel parameters that tell the built-in guest's init who is at the console.
pub fn console_hints() -> String {
    match terminal_size() {
        Some((rows, columns)) => format!("coracle.console=terminal coracle.size={rows}x{columns}"),
        None if io::stdin().is_terminal() => "coracle.console=terminal".into(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_built_in_guest_without_a_command_takes_no_input() {
        let with = |cmdline: &str| Config {
            cmdline: cmdline.into(),
            ..Config::default()
        };
        assert!(is_demonstration(&with("")));
        for cmdline in ["loglevel=7 a--b", "quiet --", "x=\"a init=b\""] {
            assert!(is_demonstration(&with(cmdline)), "{cmdline}");
        }
        for cmdline in [
            "-- cat",
            "quiet -- sh",
            "init=/bin/sh",
            "root=/dev/vda",
            "\"root=/dev/vda\"",
            "coracle.console=terminal",
        ] {
            assert!(!is_demonstration(&with(cmdline)), "{cmdline}");
        }
        let kernel = Config {
            kernel: Some("vmlinux".into()),
            ..Config::default()
        };
        assert!(!is_demonstration(&kernel));
    }
}
