//! Linux guests: what a person sees of `coracle run` with a real kernel.
//!
//! Where this host's KVM runs Linux, the trials run right here; elsewhere this program runs itself once more inside
//! the nested machine (tests/nested/), which takes the same arguments and gives the same status.

mod capture;
mod images;
mod place;
mod run;
mod terminal;

mod trials {
    pub mod console;
    pub mod cpus;
    pub mod disks;
    pub mod ends;
    pub mod guest;
    pub mod kernels;
    pub mod memory;
    pub mod terminals;
}

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Trials that run at once: a guest mostly waits for its own vCPU, and the nested machine has two processors.
const AT_ONCE: usize = 3;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let trials = trials();
    let wanted: Vec<&Trial> = trials
        .iter()
        .filter(|trial| !arguments.is_filtered_out(trial))
        .collect();
    if !arguments.list && !wanted.is_empty() && !place::is_inside() {
        if let Err(why) = place::prepare(|group| wanted.iter().any(|trial| trial.name().starts_with(group))) {
            eprintln!("Linux guests: {why}");
            return ExitCode::FAILURE;
        }
        if !place::runs_linux() {
            return place::run_inside(std::env::args_os().skip(1));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// All trials, those that take longest first.
fn trials() -> Vec<Trial> {
    [
        trials::console::trials(),
        trials::kernels::trials(),
        trials::memory::trials(),
        trials::cpus::trials(),
        trials::disks::trials(),
        trials::terminals::trials(),
        trials::ends::trials(),
        trials::guest::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Functions as trials, named `GROUP::FUNCTION`.
macro_rules! group {
    ($group:literal: $($name:ident),+ $(,)?) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$(libtest_mimic::Trial::test(concat!($group, "::", stringify!($name)), || {
                let start = std::time::Instant::now();
                $name();
                eprintln!("TIME {:.1} {}", start.elapsed().as_secs_f32(), stringify!($name));
                Ok(())
            })),+]
        }
    };
}
pub(crate) use group;
