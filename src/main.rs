//! Parses the arguments, calls one command, and ends with its exit code.

use std::env;
use std::process::ExitCode;

use coracle::clock::monotonic;
use coracle::commands::{Cli, Error, print_refusal};
use coracle::console::{NotingAllocator, end_on_lack_of_memory, end_on_panic, finish_stderr, tell};
use coracle::diagnosis::exit_code;
use coracle::logging;
use coracle::machine::share_heap;

#[global_allocator]
static ALLOCATOR: NotingAllocator = NotingAllocator;

fn main() -> ExitCode {
    let started = monotonic();
    end_on_panic(exit_code::BUG);
    end_on_lack_of_memory(exit_code::FAILED);
    share_heap();
    forget_variables();
    let cli = match Cli::of_process() {
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

/// Removes what Coracle does not obey from the environment. To be called before the first thread is started.
fn forget_variables() {
    // Temporary files go to /tmp where TMPDIR is empty, as those of other programs do.
    let empty_directory = env::var_os("TMPDIR").is_some_and(|directory| directory.is_empty());
    // When memory is lacking, the standard library would allocate more to read this one and to print a backtrace. From then on
    // nothing tells that abort from others (console/out_of_memory.rs). After a panic Coracle prints no backtrace.
    // The last one is the size of a thread's stack: with a small one the threads abort, and limits.rs counts on the default.
    let names = empty_directory
        .then_some("TMPDIR")
        .into_iter()
        .chain(["RUST_BACKTRACE", "RUST_MIN_STACK"]);
    for name in names {
        // SAFETY: no other thread runs that could read the environment.
        unsafe { env::remove_var(name) };
    }
}
