//! Parses the arguments, calls one command, and ends with its exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use coracle::commands::Cli;
use coracle::diagnosis::exit_code;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when even this cannot be printed.
            let _ = error.print();
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
            writeln!(
                out,
                "coracle: {}: {}",
                record.level().as_str().to_lowercase(),
                record.args()
            )
        })
        .init();
    match cli.execute() {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("coracle: {error}");
            error.exit_code().into()
        }
    }
}
