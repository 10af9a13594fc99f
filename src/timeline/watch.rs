//! Looks at the guest's console output, while it passes, for the lines that end a phase.

use std::sync::{Arc, Mutex, PoisonError};

use super::phase::Phase;
use super::recorder::Recorder;
use crate::devices::sink::{Sink, watched};

/// How the built-in init's first line begins.
const INIT: &[u8] = b"Coracle guest: ";

/// Wraps a sink so that the phases that its lines end are marked, and its bytes counted.
pub fn watch(sink: Arc<dyn Sink>, recorder: Arc<Recorder>) -> Arc<dyn Sink> {
    let seen = Mutex::new(Seen::default());
    watched(sink, move |byte| {
        recorder.count_console_byte();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(phase) = seen.take(byte) {
            recorder.mark(phase);
        }
    })
}

/// What the console has shown so far.
#[derive(Default)]
struct Seen {
    /// A whole line.
    line: bool,
    /// Init's first line.
    init: bool,
    /// A byte after init's first line.
    workload: bool,
    /// How many bytes this line has so far.
    length: usize,
    /// How many bytes at the start of this line are those of [`INIT`].
    matched: usize,
}

impl Seen {
    /// Takes the next byte of output. Returns the phase that it ends, if it ends one.
    fn take(&mut self, byte: u8) -> Option<Phase> {
        if self.workload {
            return None;
        }
        if self.init {
            self.workload = true;
            return Some(Phase::WorkloadOutput);
        }
        if byte != b'\n' {
            if self.matched == self.length && INIT.get(self.matched) == Some(&byte) {
                self.matched += 1;
            }
            self.length = self.length.saturating_add(1);
            return None;
        }
        self.init = self.matched == INIT.len();
        let is_first = !self.line;
        self.line = true;
        (self.matched, self.length) = (0, 0);
        match (self.init, is_first) {
            (true, _) => Some(Phase::InitLine),
            (false, true) => Some(Phase::ConsoleLine),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(output: &[u8]) -> Vec<(usize, Phase)> {
        let mut seen = Seen::default();
        let take = |(at, &byte)| seen.take(byte).map(|phase| (at, phase));
        output.iter().enumerate().filter_map(take).collect()
    }

    #[test]
    fn a_quiet_guests_first_line_is_inits() {
        let output = b"Coracle guest: Linux 6.1\r\nsh-5.1# ls\r\n";
        assert_eq!(
            moments(output),
            [(25, Phase::InitLine), (26, Phase::WorkloadOutput)]
        );
    }

    #[test]
    fn lines_before_inits_are_the_kernels() {
        let output = b"[ 0.0] Linux\r\n[ 0.1] x\r\nCoracle guest: \n\n\n";
        assert_eq!(
            moments(output),
            [
                (13, Phase::ConsoleLine),
                (39, Phase::InitLine),
                (40, Phase::WorkloadOutput)
            ]
        );
    }

    #[test]
    fn inits_words_inside_of_a_line_or_cut_short_are_not_its_line() {
        let output = b"a Coracle guest: \nCoracle guest:\nCoracle Coracle guest: \nCCoracle guest: \n";
        assert_eq!(moments(output), [(17, Phase::ConsoleLine)]);
    }
}
