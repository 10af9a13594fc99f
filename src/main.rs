//! Parses the arguments, calls one command, and ends with its exit code.

use std::env;
use std::process::ExitCode;

use clap::Parser;
use coracle::clock::monotonic;
use coracle::commands::{Cli, Error, print_refusal};
use coracle::console::{NotingAllocator, end_on_lack_of_memory, end_on_panic, finish_stderr, tell};
use coracle::diagnosis::exit_code;
use coracle::logging;
use coracle::machine::spare_address_space;

#[global_allocator]
static ALLOCATOR: NotingAllocator = NotingAllocator;

fn main() -> ExitCode {
    let started = monotonic();
    end_on_panic(exit_code::BUG);
    end_on_lack_of_memory(exit_code::FAILED);
    spare_address_space();
    forget_empty_directory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return print_refusal(&error).into(),
    };
    logging::start(cli.log_level());
    log::debug!("main began {} us ago", (monotonic() - started).as_micros());
    let code = match cli.execute(started) {
        Ok(code) => code,
        Err(error @ Error::StdoutClosed) => error.exit_code(),
        Err(error) => {
            tell(format_args!("coracle: {error}"));
            error.exit_code()
        }
    };
    finish_stderr();
    code.into()
}

/// Removes TMPDIR if it is empty, so that temporary files go to /tmp, as those of other programs do. To be called before
/// the first thread is started.
fn forget_empty_directory() {
    if env::var_os("TMPDIR").is_some_and(|directory| directory.is_empty()) {
        // SAFETY: no other thread runs that could read the environment.
        unsafe { env::remove_var("TMPDIR") };
    }
}
