//! Parses the arguments, calls one command, and ends with its exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use coracle::clock::monotonic;
use coracle::commands::{Cli, print_refusal};
use coracle::console::tell;
use coracle::diagnosis::exit_code;
use log::Level;

fn main() -> ExitCode {
    let started = monotonic();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            print_refusal(&error);
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => exit_code::FAILED.into(),
            };
        }
    };
    env_logger::Builder::new()
        .filter_module("coracle", cli.log_level())
        .parse_default_env()
        .format(|out, record| {
            let level = record.level().as_str().to_lowercase();
            match record.level() {
                Level::Debug | Level::Trace => {
                    let now = monotonic();
                    let (seconds, microseconds) = (now.as_secs(), now.subsec_micros());
                    writeln!(
                        out,
                        "coracle: {level}: [{seconds}.{microseconds:06}] {}",
                        record.args()
                    )
                }
                _ => writeln!(out, "coracle: {level}: {}", record.args()),
            }
        })
        .init();
    log::debug!("main began {} us ago", (monotonic() - started).as_micros());
    match cli.execute(started) {
        Ok(code) => code.into(),
        Err(error) => {
            tell(format_args!("coracle: {error}"));
            error.exit_code().into()
        }
    }
}
