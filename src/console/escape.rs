//! The escape key: finds the commands to Coracle in what a person types.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// A command to Coracle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Quit,
    Stop,
    Pause,
    Detach,
    /// Look at what was printed.
    Past,
    Record,
    Help,
}

/// The keys of the commands, in the order in which the help lists them.
pub const KEYS: [(u8, Command); 7] = [
    (b'x', Command::Quit),
    (b's', Command::Stop),
    (b'p', Command::Pause),
    (b'd', Command::Detach),
    (b'l', Command::Past),
    (b'r', Command::Record),
    (b'h', Command::Help),
];

/// Those of them where a program of the guest has the terminal. All other keys are the program's.
pub const PROGRAM_KEYS: [(u8, Command); 2] = [(b'x', Command::Quit), (b'h', Command::Help)];

impl Command {
    fn of_key(key: u8, keys: &[(u8, Self)]) -> Option<Self> {
        let key = match key {
            b'?' => b'h',
            key => key.to_ascii_lowercase(),
        };
        keys.iter()
            .find(|(other, _)| *other == key)
            .map(|(_, command)| *command)
    }
}

/// Separates commands from the bytes for the guest. It does not matter how the typed bytes are divided into reads.
#[derive(Debug)]
pub struct Escape {
    keys: &'static [(u8, Command)],
    pending: bool,
}

impl Escape {
    /// Knows these keys.
    pub fn new(keys: &'static [(u8, Command)]) -> Self {
        Self { keys, pending: false }
    }

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
                (true, key) => match Command::of_key(key, self.keys) {
                    Some(command) => return Some((command, rest)),
                    None => guest.extend([ESCAPE, key]),
                },
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
        filter_with(&KEYS, reads)
    }

    fn filter_with(keys: &'static [(u8, Command)], reads: &[&[u8]]) -> (Vec<u8>, Vec<Command>) {
        let (mut escape, mut guest, mut commands) = (Escape::new(keys), Vec::new(), Vec::new());
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
        assert_eq!(filter(&[b"\x01d\x01D"]), (vec![], vec![Command::Detach; 2]));
        assert_eq!(
            filter(&[b"\x01?\x01p"]),
            (vec![], vec![Command::Help, Command::Pause])
        );
    }

    #[test]
    fn the_escape_key_twice_is_one_for_the_guest() {
        assert_eq!(filter(&[b"\x01\x01x"]), (b"\x01x".to_vec(), vec![]));
    }

    #[test]
    fn an_unknown_key_after_the_escape_key_is_not_lost() {
        assert_eq!(filter(&[b"\x01e"]), (b"\x01e".to_vec(), vec![]));
    }

    #[test]
    fn where_a_program_has_the_terminal_other_keys_are_its_own() {
        assert_eq!(
            filter_with(&PROGRAM_KEYS, &[b"\x01sudo\x01d\x01h"]),
            (b"\x01sudo\x01d".to_vec(), vec![Command::Help])
        );
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
