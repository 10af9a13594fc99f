use crate::boot::parameters::{last_value, names};

/// What Linux says when it starts init (init/main.c), unless it is to be quiet.
const LINUX: (&[u8], &[u8]) = (b"Run ", b" as init process");
/// Bytes of a line that are looked at.
const LINE_MAX: usize = 160;

/// How Linux begins its first message.
const FIRST: &[u8] = b"Linux version ";

/// Looks at a guest's output for the first sign that its init runs: the kernel says so, or there is a line that is none of the
/// kernel's messages, which begin with the time in brackets.
#[derive(Default)]
pub struct Handover {
    line: Vec<u8>,
    /// The kernel's messages have no time, so other lines cannot be told from them.
    has_no_time: bool,
}

impl Handover {
    /// For a kernel with this command line.
    pub fn of(command_line: &str) -> Self {
        let is_off = |value: &str| matches!(value.as_bytes().first(), Some(b'0' | b'n' | b'N'));
        // The module parameter, which the kernel takes for a switch (lib/kstrtox.c, kstrtobool).
        let has_no_time = last_value(command_line, "printk.time").is_some_and(is_off);
        // A kernel that is to be quiet does not say either that init runs.
        let is_quiet = names(command_line, "quiet") || names(command_line, "loglevel");
        Self {
            line: Vec::new(),
            has_no_time: has_no_time && !is_quiet,
        }
    }

    /// Takes the next byte of output. True if it completes a line that shows that init runs.
    pub fn takes(&mut self, byte: u8) -> bool {
        if byte != b'\n' {
            if self.line.len() < LINE_MAX {
                self.line.push(byte);
            }
            return false;
        }
        let line = self.line.trim_ascii();
        self.has_no_time |= line.starts_with(FIRST);
        let shows = shows_init(line, self.has_no_time);
        self.line.clear();
        shows
    }
}

fn shows_init(line: &[u8], has_no_time: bool) -> bool {
    let contains = |part: &[u8]| line.windows(part.len()).any(|window| window == part);
    let (begin, end) = LINUX;
    match line.first() {
        None => false,
        Some(b'[') => contains(begin) && line.ends_with(end),
        Some(_) if has_no_time => line.starts_with(begin) && line.ends_with(end),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_by(output: &str) -> Option<usize> {
        let mut handover = Handover::default();
        output.bytes().position(|byte| handover.takes(byte))
    }

    #[test]
    fn init_runs_when_the_kernel_says_so_or_something_else_prints_a_line() {
        let booting = "[    0.000000] Linux version 6.1\r\n\r\n[    0.1][    T1] Run on\n";
        assert_eq!(shown_by(booting), None);
        for last in [
            "[    0.555] Run /init as init process\r\n",
            "Coracle guest: Linux 6.1.172\r\n",
            "Welcome to Debian\n",
        ] {
            let output = format!("{booting}{last}");
            assert_eq!(shown_by(&output), Some(output.len() - 1), "{last}");
        }
        // A kernel whose messages have no time.
        let booting = "Linux version 6.1\r\nCommand line: \nRun on\n";
        let output = format!("{booting}Run /init as init process\n");
        assert_eq!(shown_by(booting), None);
        assert_eq!(shown_by(&output), Some(output.len() - 1));
        // A part of a line shows nothing yet.
        assert_eq!(shown_by("hello"), None);
    }

    #[test]
    fn a_kernel_that_is_to_leave_the_time_out_has_to_say_that_init_runs_unless_it_is_quiet() {
        let takes = |command_line: &str| {
            let mut handover = Handover::of(command_line);
            "smpboot: booting\n".bytes().any(|byte| handover.takes(byte))
        };
        for command_line in ["printk.time=0", "printk.time=1 printk.time=n"] {
            assert!(!takes(command_line), "{command_line}");
        }
        for command_line in [
            "",
            "printk.time=1",
            "printk.time=0 quiet",
            "loglevel=3 printk.time=N",
        ] {
            assert!(takes(command_line), "{command_line}");
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut handover = Handover::default();
        assert!((0..1 << 20).all(|_| !handover.takes(b'[')));
        assert!(handover.line.capacity() < 1024);
        assert!(!handover.takes(b'\n'));
    }
}
