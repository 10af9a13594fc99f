//! What a person looks at beside the console, or keeps of it: a pager with what was printed, and a recording.

use std::io::{self, IsTerminal};

use super::{PATIENCE, Session};
use crate::console::pager::Pager;
use crate::console::record::Recording;
use crate::console::stderr::tell;
use crate::console::terminal;

impl Session {
    pub(super) fn start_pager(&mut self) -> io::Result<()> {
        let Some(terminal) = self.terminal.as_mut().filter(|_| io::stdout().is_terminal()) else {
            return Err(io::Error::other("stdout is no terminal"));
        };
        self.output.undo_for_now(PATIENCE);
        terminal.lend();
        let started =
            terminal::modes_now().and_then(|modes| Ok((Pager::start(&self.console.past())?, modes)));
        match started {
            Ok(pager) => {
                self.pager = Some(pager);
                Ok(())
            }
            Err(error) => {
                self.look_at_terminal();
                Err(error)
            }
        }
    }

    /// To be called when the pager has ended, or is to. Waits for its end.
    pub(super) fn end_pager(&mut self) {
        if let Some((pager, modes)) = self.pager.take() {
            drop(pager);
            if let Some(terminal) = &self.terminal {
                terminal.take_back(&modes);
            }
            self.look_at_terminal();
        }
    }

    pub(super) fn start_or_end_recording(&mut self) {
        let (Some(name), Some(size)) = (&self.name, terminal::size()) else {
            return tell("\ncoracle: the size of the terminal is not known, so nothing is recorded");
        };
        if self.recording.take().is_some_and(|recording| recording.goes_on()) {
            return;
        }
        match Recording::start(&self.console, name, size) {
            Ok(recording) => {
                tell(format_args!(
                    "\ncoracle: what is printed is recorded in {} (Ctrl-A r ends that)",
                    recording.name()
                ));
                self.recording = Some(recording);
            }
            Err(error) => tell(format_args!(
                "\ncoracle: nothing can be recorded in this directory: {error}"
            )),
        }
    }
}
