//! Parses the arguments, calls one command, and ends with its exit code.

use std::env;
use std::process::ExitCode;

use coracle::clock::monotonic;
use coracle::commands::{Cli, print_refusal};
use coracle::console::{NotingAllocator, end_on_lack_of_memory, end_on_panic, finish_stderr, tell};
use coracle::diagnosis::exit_code;
use coracle::logging;
use coracle::machine::share_heap;

#[global_allocator]
static ALLOCATOR: NotingAllocator = NotingAllocator;

/// Is called before the standard library starts, which has a stdout that was closed write to `/dev/null`: what a command prints
/// would be lost without an error.
#[used]
// SAFETY: the C library calls each function in this section once, before main, and ignores what it returns.
#[unsafe(link_section = ".init_array")]
static BEFORE_ALL: extern "C" fn() = keep_closed_stdout_closed;

/// Puts something in the place of a stdout that is closed which refuses what is written, as that does, and which no file can take
/// that is opened later.
extern "C" fn keep_closed_stdout_closed() {
    // SAFETY: system calls that touch no memory but the constant string, and descriptors that nothing else uses yet.
    unsafe {
        if libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) != -1 {
            return;
        }
        let refusing = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
        if refusing != libc::STDOUT_FILENO {
            libc::dup2(refusing, libc::STDOUT_FILENO);
            libc::close(refusing);
        }
    }
}

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
        Err(error) => {
            if error.is_news() {
                tell(format_args!("coracle: {error}"));
            }
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
