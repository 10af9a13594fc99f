//! The escape key: finds the commands to Coracle in what a person types.

use super::stderr::tell;

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What the help key prints.
const HELP: &str = "\n\
    Ctrl-A x       quit: stop the guest at once, as if its power was cut\n\
    Ctrl-A h       this help\n\
    Ctrl-A Ctrl-A  send one Ctrl-A to the guest";

/// A command to Coracle.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Quit,
    Help,
}

impl Command {
    /// Obeys it, unless it is the one to quit: then this is true.
    pub fn quits(&self) -> bool {
        match self {
            Self::Quit => true,
            Self::Help => {
                tell(HELP);
                false
            }
        }
    }
}

/// Separates commands from the bytes for the guest. It does not matter how the typed bytes are divided into reads.
#[derive(Debug, Default)]
pub struct Escape {
    pending: bool,
}

impl Escape {
    /// Appends the bytes for the guest to `guest`, up to the first command in `typed`. Returns that command and the bytes after
    /// it, if there is one.
    pub fn filter<'a>(
        &mut self,
        typed: &'a [u8],
        guest: &mut impl Extend<u8>,
    ) -> Option<(Command, &'a [u8])> {
        for (index, &byte) in typed.iter().enumerate() {
            let rest = &typed[index + 1..];
            match (std::mem::take(&mut self.pending), byte) {
                (false, ESCAPE) => self.pending = true,
                (false, _) | (true, ESCAPE) => guest.extend([byte]),
                (true, b'x' | b'X') => return Some((Command::Quit, rest)),
                (true, b'h' | b'H' | b'?') => return Some((Command::Help, rest)),
                (true, _) => guest.extend([ESCAPE, byte]),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(reads: &[&[u8]]) -> (Vec<u8>, Vec<Command>) {
        let (mut escape, mut guest, mut commands) = (Escape::default(), Vec::new(), Vec::new());
        for mut read in reads.iter().copied() {
            while let Some((command, rest)) = escape.filter(read, &mut guest) {
                commands.push(command);
                read = rest;
            }
        }
        (guest, commands)
    }

    #[test]
    fn commands_are_taken_out_and_the_rest_goes_to_the_guest() {
        assert_eq!(filter(&[b"ab\x01hcd"]), (b"abcd".to_vec(), vec![Command::Help]));
        assert_eq!(filter(&[b"ab\x01x"]), (b"ab".to_vec(), vec![Command::Quit]));
        assert_eq!(filter(&[b"\x01", b"x"]), (vec![], vec![Command::Quit]));
    }

    #[test]
    fn the_escape_key_twice_is_one_for_the_guest() {
        assert_eq!(filter(&[b"\x01\x01x"]), (b"\x01x".to_vec(), vec![]));
    }

    #[test]
    fn an_unknown_key_after_the_escape_key_is_not_lost() {
        assert_eq!(filter(&[b"\x01e"]), (b"\x01e".to_vec(), vec![]));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_typed_bytes_are_cut_into_reads(typed in "[ax\\x01]{0,40}", cut in 0usize..40) {
            let typed = typed.as_bytes();
            let cut = cut.min(typed.len());
            prop_assert_eq!(filter(&[typed]), filter(&[&typed[..cut], &typed[cut..]]));
        }
    }
}
