//! PID 1 of Coracle's built-in guest.
//!
//! It says its first line (start.rs), mounts what a small system needs, sets the console up, runs one thing (a command, a
//! shell or the demonstration), and powers the guest off when that ends. As the command of a container the same
//! binary does what it is let do, and exits.

mod cmdline;
mod demonstration;
mod end;
mod mounts;
mod say;
mod start;
mod supervise;
mod terminal;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use cmdline::Settings;
use end::End;
use say::say;
use supervise::Supervisor;

const BUSYBOX: &str = "/bin/busybox";

fn main() -> ExitCode {
    let boot_time = since_boot();

    let supervisor = Supervisor::new();
    if end::is_first_process() {
        mounts::mount_all();
    }
    let kernel_command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let settings = Settings::parse(&kernel_command_line);
    let command = cmdline::command(std::env::args().skip(1).collect(), &kernel_command_line);
    let console = terminal::open(&settings);
    let console = console.as_ref();

    if settings.terminal || !command.is_empty() {
        link_applets(&supervisor);
    }
    let end = match command.split_first() {
        Some((program, arguments)) => supervisor.run(program, arguments, console),
        None if settings.terminal => {
            say("This is a Linux guest in Coracle: `poweroff`, or leaving this shell, ends it.");
            say("Ctrl-A x quits Coracle at once, Ctrl-A h shows what else Ctrl-A does.");
            supervisor.run("/bin/sh", &[], console)
        }
        None => match demonstration::run(boot_time) {
            Ok(()) => {
                say("Powering off.");
                End::PowerOff { status: 0 }
            }
            Err(why) => {
                say(format_args!("Demonstration failed: {why}"));
                End::Fail { status: 1 }
            }
        },
    };
    end::end(end, &supervisor)
}

/// Makes a link in /bin for each of busybox's commands. In the initrd they would delay every boot.
fn link_applets(supervisor: &Supervisor) {
    if end::is_first_process() && Path::new(BUSYBOX).exists() {
        supervisor.run(BUSYBOX, &["--install", "-s", "/bin"].map(String::from), None);
    }
}

/// The time since the guest's kernel started its clock.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
