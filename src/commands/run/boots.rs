//! The boots of a run: one, or with `--on-reboot restart` one after the other on the same console.

use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use coracle_agent_protocol::{PORT, READY_PORT};
use coracle_images::store::Hold;

use super::confinement::confine;
use super::detached::Inherited;
use super::image::Rooted;
use super::{Error, OnReboot};
use crate::boot::parameters;
use crate::commands::system;
use crate::config::Config;
use crate::confine::filter;
use crate::console::{
    Console, Drain, Session, Signals, Source, StopReason, Woken, tell, terminal_size, wait,
};
use crate::devices::sink::Sink;
use crate::diagnosis::{self, Diagnosis, Facts, InitrdWatch, exit_code};
use crate::guests::control::Control;
use crate::guests::{Name, Own};
use crate::machine::{LimitReached, Machine, OpenFiles, Outcome, Running};
use crate::program::power_off_request;
use crate::timeline::{Phase, Timeline};
use crate::virtio::vsock::ServicePorts;

/// How long a guest may take to power off when SIGTERM asks for it.
const POWER_OFF: Duration = Duration::from_secs(10);
/// How often, and after which time, it is tried again to let a guest go on while another request works with it.
const TRIES: usize = 20;
const MOMENT: Duration = Duration::from_millis(10);

/// What all boots of a run share.
pub struct Boots<'a> {
    config: &'a Config,
    /// The image whose init is run, if there is one.
    rooted: Option<&'a Rooted>,
    /// Keeps it in the store.
    hold: Option<Hold>,
    /// The machine's files: opened for the first boot, and used again by the later ones.
    opened: Option<OpenFiles>,
    console: Console,
    /// The guest's directory, if it has a name.
    own: Option<Own>,
    /// What a run in the background lets go of once its files are open.
    inherited: Option<Inherited>,
    /// Whether its agent runs what others ask for.
    serves: bool,
    /// A connection by which the agent is asked to power off, made before the process is confined.
    agent: Option<AgentAsked>,
    /// What others, and the person at the console, do with the machine of the current boot.
    control: Arc<Control>,
    /// What outlives a boot beside the console. Here between two boots; during a boot there is nothing here.
    attached: Option<Attached>,
}

/// Who may end the run, apart from the guest: the person at the console, and whoever sends this process a signal.
struct Attached {
    session: Session,
    signals: Signals,
}

/// A machine that can start.
struct Ready {
    machine: Machine,
    attached: Attached,
    /// Why the run is to stop before the machine starts, if it is.
    stop: Option<StopReason>,
}

impl<'a> Boots<'a> {
    pub fn new(
        (config, rooted): (&'a Config, Option<&'a Rooted>),
        (own, inherited): (Option<Own>, Option<Inherited>),
        serves: bool,
    ) -> Self {
        let control = match &own {
            Some(own) => own.control().clone(),
            None => Arc::new(Control::new(None)),
        };
        Self {
            config,
            rooted,
            hold: None,
            own,
            control,
            inherited,
            serves,
            agent: None,
            opened: None,
            console: Console::default(),
            attached: None,
        }
    }

    /// Boots the machine once and waits for its end. Returns the diagnosis, or nothing if the guest is to boot again. When
    /// there is a diagnosis, the terminal has been given back to the person.
    pub fn next(&mut self, timeline: &Timeline) -> Result<Option<Diagnosis>, Error> {
        // Looks at the output for what the kernel says of the initrd.
        let initrd = Arc::<InitrdWatch>::default();
        let output = initrd.watch(timeline.watch(self.console.sink()));
        let Ready {
            mut machine,
            attached,
            stop,
        } = self.make_ready(output, timeline)?;
        let Attached {
            mut session,
            mut signals,
        } = attached;
        let mut facts = facts(self.config, &machine);
        if let Some(reason) = stop {
            let diagnosis = diagnosis::explain(&reason.into(), &self.console.tail_of_run(), &facts);
            return Ok(Some(diagnosis));
        }
        timeline.mark(Phase::ConsoleReady);

        if self.own.is_some() {
            machine.count_exits();
        }
        let running = Arc::new(machine.start()?);
        if let Some(own) = &mut self.own {
            own.note_that_it_runs();
        }
        filter::narrow(match self.config.on_reboot {
            OnReboot::Exit => filter::Kind::Main,
            OnReboot::Restart => filter::Kind::MainWithRestarts,
        });
        timeline.start_memory_reader();
        self.console.connect(running.serial().clone());
        let control = self.control.clone();
        control.connect(running.clone());
        let (attended, was_asked) = loop {
            let attended = session.attend(running.ended(), &mut signals);
            let is_key = matches!(attended, Ok(Some(StopReason::Stop)));
            if !is_key && !matches!(attended, Ok(Some(StopReason::Signal(libc::SIGTERM)))) {
                break (attended, false);
            }
            if self.ask(&running) {
                break (power_off(&running, &mut session, &mut signals), true);
            }
            if !is_key {
                break (attended, false);
            }
            tell(
                "\ncoracle: nothing in the guest can be asked to power off now: power it off from inside, or end it with \
                 Ctrl-A x",
            );
        };
        self.console.disconnect();
        let stop = attended.map_err(system("wait for the guest"))?;
        timeline.end();

        let may_boot_again = stop.is_none() && !was_asked && self.config.on_reboot == OnReboot::Restart;
        let finish = move || {
            running.end(Outcome::Quit);
            control.disconnect();
            running.wait()
        };
        let finished = match (&stop, may_boot_again) {
            (_, true) => session.stay_during(&mut signals, finish),
            (None, false) => session.close_during(Drain::All, &mut signals, finish),
            (Some(_), _) => session.close_during(Drain::AtOnce, &mut signals, finish),
        };
        let (outcome, later) = finished.map_err(system("wait for the end of the guest"))?;
        // KVM starts a thread of its own when the first vCPU first runs.
        if let Outcome::RunFailed(error) = &*outcome
            && let Some(limit) = LimitReached::behind(error)
        {
            return Err(limit.into());
        }
        let mut stop = stop.or(later);
        facts.initrd_failure = initrd.reason();
        let tail = self.console.tail_of_boot();
        if may_boot_again && stop.is_none() {
            if diagnosis::explain(&outcome, &tail, &facts).exit_code == exit_code::REBOOTED {
                self.attached = Some(Attached { session, signals });
                return Ok(None);
            }
            stop = session
                .close(Drain::All, &mut signals)
                .map_err(system("wait for the console's reader"))?;
        }
        let diagnosis = match (stop, session.take_output_error()) {
            // In a restart loop this boot may have had no time to print anything.
            (Some(reason), _) => diagnosis::explain(&reason.into(), &self.console.tail_of_run(), &facts),
            // Without its last lines a good end of the guest is not a good end of the run.
            (None, Some(error)) if is_good_end(&outcome) => {
                diagnosis::explain(&Outcome::ConsoleLost(error), &tail, &facts)
            }
            (None, _) => diagnosis::explain(&outcome, &tail, &facts),
        };
        Ok(Some(diagnosis))
    }

    /// Asks the guest to power off, by its agent or by its power button. False if nobody there would hear it.
    fn ask(&mut self, running: &Running) -> bool {
        // Any program of a guest may say that it is the agent, but only a kernel has the button. The built-in one has none.
        let has_agent = !running.has_connected_power_button()
            && running.has_listening_agent()
            && self.agent.as_ref().is_some_and(|agent| agent.theirs.is_some());
        // A guest that is paused hears nothing.
        if !has_agent && !running.has_connected_power_button() || !self.resume() {
            return false;
        }
        let agent = self.agent.as_mut().filter(|_| has_agent);
        let agent = agent.and_then(|agent| agent.theirs.take());
        let asked = match agent {
            Some(agent) => running.call_agent(agent),
            None => running.press_power_button().map(drop),
        };
        if let Err(error) = &asked {
            log::warn!("the guest cannot be asked to power off: {error}");
        }
        asked.is_ok()
    }

    /// Lets the guest go on if it is paused. False if a pause waits for a disk that hangs.
    fn resume(&self) -> bool {
        // Other requests take a moment.
        (0..TRIES).any(|_| self.control.resume() || wait([], Some(MOMENT)).is_err())
    }

    /// Writes down how the run ended, where the guest has a directory.
    pub fn write_down(&mut self, exit_code: u8, explanation: Option<String>) {
        if let Some(own) = self.own.take() {
            own.end(&self.console, exit_code, explanation);
        }
    }

    /// Builds a machine whose console is `output`, and opens the session with the first one.
    fn make_ready(&mut self, output: Arc<dyn Sink>, timeline: &Timeline) -> Result<Ready, Error> {
        let config = self.config;
        let opened = match &self.opened {
            Some(opened) => opened,
            None => {
                let image = self.rooted.map(Rooted::open).transpose()?;
                let (hold, files) = image.map(|image| (image.hold, image.files)).unzip();
                self.hold = hold;
                let files = files.unwrap_or_default();
                let opened = self.opened.insert(OpenFiles::open_with(config, files)?);
                timeline.mark(Phase::KvmOpened);
                if let Some(inherited) = self.inherited.take() {
                    inherited.leave().map_err(system("leave the directory"))?;
                }
                // A guest with a kernel of the person's may have an agent, too.
                if self.own.is_some() {
                    opened.count_memory();
                    expect_agent(opened).map_err(system("reach the guest's agent"))?;
                    let agent = AgentAsked::new().map_err(system("reach the guest's agent"))?;
                    self.agent = Some(agent);
                }
                if let Some(own) = &mut self.own {
                    own.publish()?;
                }
                confine(config, self.own.is_some())?;
                opened
            }
        };
        let mut hints = match &self.own {
            Some(own) if own.is_detached() => DETACHED_HINTS.into(),
            _ => console_hints(),
        };
        hints.extend(self.rooted.map(|rooted| rooted.hints.as_str()));
        let name = self.own.as_ref().and_then(Own::name);
        let mut hints = with_service(hints, name.filter(|_| self.serves));
        if timeline.is_on() {
            hints.push_str(" coracle.clock");
        }
        let build = || Machine::build(config, opened, &hints, output, timeline);
        if let Some(mut attached) = self.attached.take() {
            self.console.begin_boot();
            let Attached { session, signals } = &mut attached;
            let (machine, stop) = session
                .stay_during(signals, build)
                .map_err(system("wait for the next boot"))?;
            return Ok(Ready {
                machine: machine?,
                attached,
                stop,
            });
        }
        let machine = build()?;
        // From here on signals wait until the session takes them. So they are caught only after the slow part, during which
        // they end the process as usual, but before the threads of the machine are started, which must not receive them.
        let signals = Signals::catch().map_err(system("catch signals"))?;
        let session = Session::open(&self.console, source(config), self.control.clone(), &signals);
        let session = session.map_err(system("use stdin and stdout"))?;
        if let Some(own) = &mut self.own {
            own.keep_log(&self.console, machine.command_line())
                .map_err(system("start the console's log"))?;
            own.serve(&self.console)
                .map_err(system("answer other commands"))?;
        }
        Ok(Ready {
            machine,
            attached: Attached { session, signals },
            stop: None,
        })
    }
}

/// A connection with the request to power off in it. The process of the guest reads nothing that the guest says.
struct AgentAsked {
    /// Stays open: a call whose other end is closed is not made.
    _ours: UnixStream,
    /// Nothing once the agent was asked.
    theirs: Option<UnixStream>,
}

impl AgentAsked {
    fn new() -> io::Result<Self> {
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.write_all(&power_off_request())?;
        Ok(Self {
            _ours: ours,
            theirs: Some(theirs),
        })
    }
}

/// Waits until the guest that was asked has powered off, or is to be ended without that.
fn power_off(
    running: &Running,
    session: &mut Session,
    signals: &mut Signals,
) -> io::Result<Option<StopReason>> {
    tell(format_args!(
        "coracle: the guest is asked to power off, and has {} s for it; another SIGTERM ends it at once",
        POWER_OFF.as_secs()
    ));
    Ok(match session.attend_for(running.ended(), POWER_OFF, signals)? {
        Woken::Event => None,
        Woken::Stop(reason) => Some(reason),
        Woken::TimedOut => {
            tell("coracle: the guest did not power off in time, and is ended");
            Some(StopReason::Signal(libc::SIGTERM))
        }
    })
}

/// Has the socket device know the agent that the guest may have.
pub fn expect_agent(opened: &OpenFiles) -> io::Result<()> {
    let ports = ServicePorts {
        port: PORT,
        ready_port: READY_PORT,
    };
    opened
        .vsock
        .as_ref()
        .map_or(Ok(()), |vsock| vsock.expect_service(ports))
}

/// The parameters for the built-in guest, which has a host name and starts the agent's service if it is named.
pub fn with_service(mut hints: String, name: Option<&Name>) -> String {
    if let Some(name) = name {
        hints.push_str(&format!(" coracle.exec hostname={name}"));
    }
    hints
}

/// What an explanation of the end may use.
pub fn facts(config: &Config, machine: &Machine) -> Facts {
    Facts {
        memory_mib: config.memory.0 >> 20,
        has_initrd: machine.has_initrd(),
        has_disk: !config.disks.is_empty(),
        built_in: config.kernel.is_none(),
        command_line: machine.command_line().to_owned(),
        kernel_moved: machine.kernel_moved(),
        initrd_failure: None,
    }
}

impl From<StopReason> for Outcome {
    fn from(reason: StopReason) -> Self {
        match reason {
            // The terminal of a run does not detach.
            StopReason::Quit | StopReason::Detach => Self::Quit,
            StopReason::Stop => Self::Signal(libc::SIGTERM),
            StopReason::Signal(number) => Self::Signal(number),
            StopReason::OutputLost(error) => Self::ConsoleLost(error),
        }
    }
}

/// Whether the guest ended as it wanted.
fn is_good_end(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::PoweredOff | Outcome::Reset | Outcome::Halted)
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

/// The built-in guest's init gives a shell, to which somebody may attach.
const DETACHED_HINTS: &str = "coracle.console=terminal";

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
