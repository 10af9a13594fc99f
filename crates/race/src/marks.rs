//! Which lines of a workload's output the clock waits for.

use std::time::Instant;

/// What init's first line begins with, in a guest and in a container alike.
const INIT: &str = "Coracle guest: ";
/// What init's complaints begin with: about a command that cannot be run, for example.
const COMPLAINT: &str = "coracle-init: ";
/// How much of a line is kept; longer lines are of no interest.
const LINE_MAX: usize = 4096;
/// How many of the last lines are kept, to explain a failure.
const LINES_KEPT: usize = 5;

/// A place in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The first line of init.
    Init,
    /// The first line of what init runs.
    Command,
}

/// Reads output piece by piece, and notes when the marks were reached.
#[derive(Debug, Default)]
pub struct Marks {
    line: Vec<u8>,
    last_lines: Vec<String>,
    init: Option<Instant>,
    command: Option<Instant>,
    complaint: Option<String>,
}

impl Marks {
    /// Takes the next bytes of the output, which were there at `now`.
    pub fn feed(&mut self, bytes: &[u8], now: Instant) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = LINE_MAX.saturating_sub(self.line.len());
            self.line.extend(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.line).trim().to_owned();
                self.line.clear();
                self.take(line, now);
            }
        }
    }

    fn take(&mut self, line: String, now: Instant) {
        match (self.init, self.command) {
            // Firmware may have left something at the start of the line.
            (None, _) if line.contains(INIT) => self.init = Some(now),
            (Some(_), None) if line.starts_with(COMPLAINT) => {
                self.complaint.get_or_insert_with(|| line.clone());
            }
            (Some(_), None) if !is_kernel_message(&line) => self.command = Some(now),
            _ => (),
        }
        if !line.is_empty() {
            if self.last_lines.len() == LINES_KEPT {
                self.last_lines.remove(0);
            }
            self.last_lines.push(line);
        }
    }

    /// When the mark was reached, if it has been.
    pub fn reached(&self, mark: Mark) -> Option<Instant> {
        match mark {
            Mark::Init => self.init,
            Mark::Command => self.command,
        }
    }

    /// Init's complaint, if it came before the command's first line.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// The last lines, also one that has not ended yet.
    pub fn last_lines(&self) -> Vec<String> {
        let unfinished = String::from_utf8_lossy(&self.line).trim().to_owned();
        let lines = self.last_lines.iter().cloned().chain([unfinished]);
        lines.filter(|line| !line.is_empty()).collect()
    }
}

/// `[    0.123456] text`, as a kernel that is not quite quiet prints on the same console.
fn is_kernel_message(line: &str) -> bool {
    let time = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let is_time = |time: &str| {
        let (seconds, fraction) = time.trim().split_once('.').unwrap_or_default();
        [seconds, fraction]
            .iter()
            .all(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    time.is_some_and(|(time, _)| is_time(time))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks(output: &str) -> Marks {
        let mut marks = Marks::default();
        marks.feed(output.as_bytes(), Instant::now());
        marks
    }

    #[test]
    fn a_line_counts_once_it_has_ended() {
        let mut marks = marks("Coracle guest: Linux 6.1");
        assert_eq!(marks.reached(Mark::Init), None);
        let now = Instant::now();
        marks.feed(b"\r\n", now);
        assert_eq!(marks.reached(Mark::Init), Some(now));
        assert_eq!(marks.reached(Mark::Command), None);
    }

    #[test]
    fn kernel_messages_and_firmware_do_not_stop_the_clock() {
        let mut marks = marks("\x1bcBooting\r\n[    0.000000] Linux version\r\n");
        assert_eq!(marks.reached(Mark::Init), None);
        marks.feed(
            b"\x1b[2JCoracle guest: Linux 6.1\r\n[    0.031337] random: crng\r\n",
            Instant::now(),
        );
        assert!(marks.reached(Mark::Init).is_some());
        assert_eq!(marks.reached(Mark::Command), None);
        marks.feed(b"[x] is a line of the command\n", Instant::now());
        assert!(marks.reached(Mark::Command).is_some());
    }

    #[test]
    fn a_complaint_of_init_is_no_line_of_the_command() {
        let marks = marks("Coracle guest: Linux 6.1\ncoracle-init: cannot run nothing: ENOENT\n");
        assert_eq!(marks.reached(Mark::Command), None);
        assert_eq!(
            marks.complaint(),
            Some("coracle-init: cannot run nothing: ENOENT")
        );
    }

    #[test]
    fn the_last_lines_are_kept_with_the_one_that_has_not_ended() {
        assert_eq!(
            marks("1\n2\n\n3\n4\n5\n6\nwhat").last_lines(),
            ["2", "3", "4", "5", "6", "what"]
        );
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            before in "[a-z\r\n]{0,20}", after in "[a-z\n]{0,20}", cuts in prop::collection::vec(1..12_usize, 0..20)
        ) {
            let output = format!("{before}\nCoracle guest: Linux\r\n{after}");
            let whole = marks(&output);
            let mut pieces = Marks::default();
            let mut rest = output.as_bytes();
            for cut in cuts {
                let (piece, others) = rest.split_at(cut.min(rest.len()));
                pieces.feed(piece, Instant::now());
                rest = others;
            }
            pieces.feed(rest, Instant::now());
            prop_assert!(whole.reached(Mark::Init).is_some() && pieces.reached(Mark::Init).is_some());
            prop_assert_eq!(whole.reached(Mark::Command).is_some(), pieces.reached(Mark::Command).is_some());
            prop_assert_eq!(whole.reached(Mark::Command).is_some(), after.contains('\n'));
            prop_assert_eq!(whole.last_lines(), pieces.last_lines());
        }

        #[test]
        fn any_output_is_read(output: Vec<u8>) {
            let mut marks = Marks::default();
            marks.feed(&output, Instant::now());
            prop_assert!(marks.last_lines().len() <= LINES_KEPT + 1);
        }
    }
}
