//! Linux guests: what a person sees of `coracle run` with a real kernel.
//!
//! Where this host's KVM runs Linux, the trials run here. Elsewhere this program runs itself inside nested machines
//! (tests/nested/), with the same arguments: all trials with an AMD processor, and those of intel.rs with one of Intel's,
//! too.

mod capture;
mod harbour;
mod images;
mod intel;
mod machines;
mod place;
mod run;
mod terminal;
mod torture;
mod traced;

mod trials {
    pub mod agent;
    pub mod attached;
    pub mod confinement;
    pub mod console;
    pub mod cp;
    pub mod cpus;
    pub mod disks;
    pub mod ends;
    pub mod exec;
    pub mod failures;
    pub mod guest;
    pub mod hardware;
    pub mod images;
    pub mod kernels;
    pub mod killed;
    pub mod load;
    pub mod memory;
    pub mod named;
    pub mod pauses;
    pub mod processors;
    pub mod program;
    pub mod race;
    pub mod sockets;
    pub mod systemd;
    pub mod terminals;
    pub mod thousands;
    pub mod timings;
    pub mod users;
}

use std::any::Any;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use machines::Machine;

/// How many trials run at once. One, because a nested machine has one processor.
const AT_ONCE: usize = 1;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((first, rest)) if first == "--torture" => return torture::main(rest),
        Some((first, rest)) if first == "--torture-blocks" => return torture::blocks(rest),
        Some((first, rest)) if first == "--torture-cut" => return torture::cut::inside(rest),
        _ => {}
    }
    match run() {
        Ok(code) => code,
        Err(why) => {
            eprintln!("Linux guests: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, String> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let mut trials = trials();
    intel::check(&trials)?;
    if let Some(machine) = machines::current() {
        let mut numbers = 0..;
        trials.retain(|trial| {
            numbers
                .next()
                .is_some_and(|number| machine.runs(number, trial.name()))
        });
    } else if !arguments.list {
        let wanted: Vec<(usize, &str)> = (0..)
            .zip(&trials)
            .filter(|(_, trial)| !arguments.is_filtered_out(trial))
            .map(|(number, trial)| (number, trial.name()))
            .collect();
        if !wanted.is_empty() {
            place::prepare(|group| wanted.iter().any(|(_, name)| name.starts_with(group)))?;
            if !place::runs_linux() {
                let mut machines = machines::all()?;
                machines.retain(|machine| wanted.iter().any(|(number, name)| machine.runs(*number, name)));
                let words: Vec<_> = std::env::args_os().skip(1).collect();
                let has_systemd = |machine: Machine| {
                    place::is_full_asked()
                        && wanted
                            .iter()
                            .any(|(number, name)| name.starts_with("systemd") && machine.runs(*number, name))
                };
                return Ok(place::run_inside(&machines, &words, has_systemd));
            }
        }
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

/// All trials, those that take longest first.
fn trials() -> Vec<Trial> {
    [
        trials::console::trials(),
        trials::kernels::trials(),
        trials::load::trials(),
        trials::thousands::trials(),
        trials::systemd::trials(),
        trials::memory::trials(),
        trials::named::trials(),
        trials::attached::trials(),
        trials::pauses::trials(),
        trials::cpus::trials(),
        trials::processors::trials(),
        trials::race::trials(),
        trials::disks::trials(),
        trials::terminals::trials(),
        trials::timings::trials(),
        torture::trials(),
        trials::hardware::trials(),
        trials::program::trials(),
        trials::images::trials(),
        trials::exec::trials(),
        trials::cp::trials(),
        trials::agent::trials(),
        trials::sockets::trials(),
        trials::killed::trials(),
        trials::users::trials(),
        trials::failures::trials(),
        trials::ends::trials(),
        trials::confinement::trials(),
        trials::guest::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Functions that panic when they fail as trials, named `GROUP::FUNCTION`. Those after a semicolon are ignored where the
/// expression before them is a reason: the summary counts them and shows the reason.
macro_rules! group {
    ($group:literal: $($name:ident),* $(,)?) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$($crate::group!(@trial $group $name)),*]
        }
    };
    ($group:literal: $($name:ident),* ; $reason:expr => $($other:ident),+ $(,)?) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            let reason: Option<&str> = $reason;
            let others = vec![$($crate::group!(@trial $group $other)),+];
            let others = others.into_iter().map(|trial| match reason {
                Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
                None => trial,
            });
            vec![$($crate::group!(@trial $group $name)),*].into_iter().chain(others).collect()
        }
    };
    (@trial $group:literal $name:ident) => {
        libtest_mimic::Trial::test(concat!($group, "::", stringify!($name)), || {
            $name();
            Ok(())
        })
    };
}
pub(crate) use group;

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_else(|| "it panicked".into())
}
