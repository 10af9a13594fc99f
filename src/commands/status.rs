//! The exit code of a command that ran a program in a guest.

use std::io;

use coracle_agent_protocol::Reason;

use super::tell;
use crate::diagnosis::exit_code;
use crate::plain_text;
use crate::program::Ended;

/// The program's status as an exit code, or that of a program that could not be started or was lost. Says on stderr what the
/// program itself could not say. Nothing if the session ended by anything else. `output_error` is why the program's output could
/// not be written.
pub fn of(ended: &Ended, output_error: Option<io::Error>) -> Option<u8> {
    Some(match ended {
        Ended::Exited(0) if let Some(error) = output_error => {
            tell(format_args!(
                "coracle: cannot write the program's output: {error}"
            ));
            exit_code::FAILED
        }
        Ended::Exited(status) => *status,
        Ended::Killed(signal) => exit_code::from_signal((*signal).into()),
        Ended::NotStarted(failure) => {
            tell(format_args!("coracle: {}", plain_text::clean(&failure.text)));
            match failure.reason {
                Reason::NotFound => exit_code::FILE_MISSING,
                Reason::NotExecutable => exit_code::HOST_CANNOT,
                Reason::Other => exit_code::FAILED,
            }
        }
        Ended::Agent(error) => {
            match error.kind() {
                io::ErrorKind::InvalidData => tell(format_args!(
                    "coracle: the agent in the guest is not understood: {error}"
                )),
                io::ErrorKind::TimedOut => tell(
                    "coracle: the agent in the guest does not answer, and the command did not run: the guest hangs, has not come \
                     so far, or its init ended the agent (coracle logs prints what it says)",
                ),
                _ => tell("coracle: the agent in the guest is gone, and with it the command"),
            }
            exit_code::FAILED
        }
        Ended::Machine | Ended::Quit | Ended::Signal(_) => return None,
    })
}
