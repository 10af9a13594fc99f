//! PID 1 of Coracle's built-in guest.
//!
//! It says its first line (start.rs), mounts what a small system needs, sets the console up, runs one thing (a command, a
//! shell or the demonstration), and powers the guest off when that ends. With `root=` or `init=` on the command line it
//! changes to that root first, and gives its place as PID 1 to that init. As the command of a container the same binary
//! does what a container allows, and exits. In a guest with an init of its own it is the agent, if its argument is `--agent`.

mod agent;
mod cmdline;
mod demonstration;
mod end;
mod layers;
mod mounts;
mod no_stack_guard;
mod root;
mod say;
mod start;
mod supervise;
mod terminal;

use std::fs::{self, File};
use std::process::ExitCode;
use std::time::Duration;

use nix::fcntl::AtFlags;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::linkat;

use agent::{PowerOff, Service};
use cmdline::Settings;
use say::{complain, say};
use supervise::{End, Supervisor};

/// The names of busybox's commands, a line each.
const APPLETS: &str = "/bin/.applets";
const SHELL: &str = "/bin/sh";
/// The argument that makes this program the agent.
const AGENT: &str = "--agent";

fn main() -> ExitCode {
    let boot_time = since_boot();
    if is_agent() {
        return serve();
    }

    let supervisor = Supervisor::new();
    if end::is_first_process() {
        mounts::mount_all();
    }
    let kernel_command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let settings = Settings::parse(&kernel_command_line);
    let command = cmdline::command(std::env::args().skip(1).collect(), &kernel_command_line);
    let settings = match end::is_first_process() && terminal::is_kernel_console() {
        true => settings,
        false => settings.in_container(),
    };
    // Nobody is at the console of a guest for one program.
    let console = match settings.agent {
        true => None,
        false => terminal::open(&settings),
    };
    let console = console.as_ref();

    let end = match &settings {
        Settings {
            root: None,
            init: None,
            ..
        } => run(&supervisor, &settings, &command, console, boot_time),
        _ => run_in_root(&supervisor, &settings, &command, console).unwrap_or_else(|why| {
            complain(why);
            End::Fail { status: 1 }
        }),
    };
    end::end(end, &supervisor)
}

/// Runs the one thing that the guest is for.
fn run(
    supervisor: &Supervisor,
    settings: &Settings,
    command: &[String],
    console: Option<&File>,
    boot_time: Duration,
) -> End {
    if settings.terminal || settings.agent || settings.exec || !command.is_empty() {
        link_applets();
    }
    if settings.exec {
        supervisor.start_service(PowerOff::Signal);
    }
    if settings.agent {
        return supervisor.run_for_host();
    }
    match command.split_first() {
        Some((program, arguments)) => supervisor.run(program, arguments, console),
        None if settings.terminal => {
            say("This is a Linux guest in Coracle: `poweroff`, or leaving this shell, ends it.");
            say("Ctrl-A x quits Coracle at once, Ctrl-A h shows what else Ctrl-A does.");
            supervisor.run(SHELL, &[], console)
        }
        None => match demonstration::run(boot_time) {
            Ok(()) => {
                say("Powering off.");
                End::PowerOff { status: 0 }
            }
            Err(why) => {
                complain(format_args!("the demonstration failed: {why}"));
                End::Fail { status: 1 }
            }
        },
    }
}

/// Runs what the person's root, or init, is for: the command, under this process as PID 1, or else the root's own init in
/// its place. An error is a sentence.
fn run_in_root(
    supervisor: &Supervisor,
    settings: &Settings,
    command: &[String],
    console: Option<&File>,
) -> Result<End, String> {
    match &settings.root {
        Some(root) => root::enter(root)?,
        None => link_applets(),
    }
    let serve = |power_off| {
        if settings.exec {
            supervisor.start_service(power_off);
        }
    };
    if settings.agent {
        serve(PowerOff::Signal);
        return Ok(supervisor.run_for_host());
    }
    if let (None, Some((program, arguments))) = (&settings.init, command.split_first()) {
        serve(PowerOff::Signal);
        return Ok(supervisor.run(program, arguments, console));
    }
    let init = root::init(settings.init.as_deref())?;
    // Linux takes a shell where there is no init. This process stays above it, so that leaving it is a power-off.
    if settings.init.is_none() && init == SHELL {
        serve(PowerOff::Signal);
        return Ok(supervisor.run(SHELL, &[], console));
    }
    serve(PowerOff::Program);
    match supervisor.become_init(&init, command)? {}
}

/// Whether this is the agent of a guest with an init of its own (`coracle agent --install-into`).
fn is_agent() -> bool {
    !end::is_first_process() && std::env::args_os().nth(1).is_some_and(|word| word == AGENT)
}

fn serve() -> ExitCode {
    let Err(why) = Service::start_when_possible(PowerOff::Program).and_then(Service::serve);
    complain(format_args!("the agent ends: {why}"));
    ExitCode::FAILURE
}

/// Makes a hard link in /bin for each of busybox's commands. In the initrd they would delay every boot; symbolic ones would
/// take a page each; busybox itself takes four times as long.
fn link_applets() {
    if !end::is_first_process() {
        return;
    }
    let (Ok(names), Ok(bin), Ok(busybox)) = (
        fs::read_to_string(APPLETS),
        File::open("/bin"),
        File::open("/bin/busybox"),
    ) else {
        return;
    };
    for name in names.lines() {
        // The shell's is there already. By its descriptor busybox need not be looked up each time.
        let _ = linkat(&busybox, "", &bin, name, AtFlags::AT_EMPTY_PATH);
    }
}

/// The time since the guest's kernel started its clock.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
