/// What Linux says when it starts init (init/main.c), unless it is to be quiet.
const LINUX: (&[u8], &[u8]) = (b"Run ", b" as init process");
/// Bytes of a line that are looked at.
const LINE_MAX: usize = 160;

/// Looks at a guest's output for the first sign that its init runs: the kernel says so, or there is a line that is none of the
/// kernel's messages, which begin with the time in brackets.
#[derive(Default)]
pub struct Handover(Vec<u8>);

impl Handover {
    /// Takes the next byte of output. True if it completes a line that shows that init runs.
    pub fn takes(&mut self, byte: u8) -> bool {
        if byte != b'\n' {
            if self.0.len() < LINE_MAX {
                self.0.push(byte);
            }
            return false;
        }
        let shows = shows_init(self.0.trim_ascii());
        self.0.clear();
        shows
    }
}

fn shows_init(line: &[u8]) -> bool {
    let contains = |part: &[u8]| line.windows(part.len()).any(|window| window == part);
    let (begin, end) = LINUX;
    match line.first() {
        None => false,
        Some(b'[') => contains(begin) && line.ends_with(end),
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
        // A part of a line shows nothing yet.
        assert_eq!(shown_by("hello"), None);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut handover = Handover::default();
        assert!((0..1 << 20).all(|_| !handover.takes(b'[')));
        assert!(handover.0.capacity() < 1024);
        assert!(!handover.takes(b'\n'));
    }
}
