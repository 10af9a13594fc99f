//! Follows what a guest changes in the person's terminal by escape sequences, and gives the bytes that change it back, and
//! those that switch on again what a guest had switched on.
//!
//! The names in parentheses are those of ECMA-48, of DEC's terminals and of xterm (its "Control Sequences" document).

use std::collections::BTreeSet;

/// How many bytes of a sequence's parameters, or of the beginning of a string, are examined.
const LOOKED_AT: usize = 64;

/// Private modes that are off in a terminal until a program sets them, and that disturb a shell when they are on: cursor keys
/// (DECCKM), reverse video, origin, the old mouse protocol, the alternate screens, keypad, margins, the mouse protocols, focus
/// events, bracketed paste, held-back updates, and reports of colours, sizes and keys.
const USUALLY_OFF: [u16; 24] = [
    1, 5, 6, 9, 42, 47, 66, 69, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026,
    2031, 2048, 9001,
];
/// Private modes that are on until a program resets them: ANSI sequences (DECANM), line wrap, key repeat, the cursor.
const USUALLY_ON: [u16; 4] = [2, 7, 8, 25];
/// Modes of ECMA-48 that are usually off: a locked keyboard, insertion, newlines as CR LF.
const ANSI_USUALLY_OFF: [u16; 3] = [2, 4, 20];
/// Modes of ECMA-48 that are usually on: no local echo.
const ANSI_USUALLY_ON: [u16; 1] = [12];
/// The modes among [`USUALLY_OFF`] that show another screen.
const ALTERNATE_SCREENS: [u16; 3] = [47, 1047, 1049];
/// Colours that a control string sets, by its number, and the number that resets them.
const COLOURS: [(u16, u16); 4] = [(4, 104), (10, 110), (11, 111), (12, 112)];

/// What the next byte of the output belongs to.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Place {
    #[default]
    Text,
    /// A sequence after ESC.
    Escape,
    /// A sequence after CSI.
    Control,
    /// A control string. `command` says whether it is an operating system command.
    String { command: bool },
}

/// Follows a guest's output, which may be divided anywhere, and records how the terminal differs from its usual state.
#[derive(Debug, Default, Clone)]
pub struct GuestModes {
    place: Place,
    /// How many bytes must follow to complete a UTF-8 character, and whether that character is one of U+0080 to U+00BF. The
    /// 8-bit control characters are among these.
    continuation: (u8, bool),
    /// The first bytes of the sequence after ESC or CSI, or of the string, at most [`LOOKED_AT`].
    sequence: Vec<u8>,
    /// The private modes that differ from their usual state.
    private: BTreeSet<u16>,
    /// The modes of ECMA-48 that differ from their usual state.
    ansi: BTreeSet<u16>,
    colours: BTreeSet<u16>,
    /// How many entries are on the stack of the keyboard protocol (kitty): on that of the usual screen, and on that of the
    /// alternate one.
    keyboards: [u32; 2],
    changed: Changed,
    asked: bool,
    /// How often the terminal was asked for its identity (DA1, DECID).
    identities_asked: u64,
}

/// What else differs from its usual state.
#[derive(Debug, Default, Clone)]
struct Changed {
    attributes: bool,
    region: bool,
    keypad: bool,
    character_set: bool,
    encoding: bool,
    cursor_shape: bool,
    key_modifiers: bool,
    keyboard_flags: bool,
    link: bool,
    eight_bit_answers: bool,
    printing: bool,
}

impl GuestModes {
    /// Follows the next bytes of the output.
    pub fn watch(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.follow(byte));
    }

    /// Whether the last byte ended what it belonged to: a sequence or a character.
    pub fn is_between_sequences(&self) -> bool {
        self.place == Place::Text && self.continuation.0 == 0
    }

    /// Whether the bytes since the last call can make the terminal send an answer.
    pub fn take_asked(&mut self) -> bool {
        std::mem::take(&mut self.asked)
    }

    /// How often all bytes so far asked the terminal for its identity.
    pub fn identities_asked(&self) -> u64 {
        self.identities_asked
    }

    fn follow(&mut self, byte: u8) {
        let byte = match (self.continuation, byte) {
            ((0, _), 0xc2..=0xdf) => return self.continuation = (1, byte == 0xc2),
            ((0, _), 0xe0..=0xef) => return self.continuation = (2, false),
            ((0, _), 0xf0..=0xf4) => return self.continuation = (3, false),
            ((1, true), 0x80..=0x9f) => byte,
            ((1.., _), 0x80..=0xbf) => return self.continuation.0 -= 1,
            _ => byte,
        };
        self.continuation = (0, false);
        match (self.place, byte) {
            (_, 0x1b) => self.enter(Place::Escape),
            // CAN and SUB end every sequence.
            (_, 0x18 | 0x1a) => self.enter(Place::Text),
            // An 8-bit control character means the same as ESC and a 7-bit character.
            (_, 0x80..=0x9f) => {
                self.enter(Place::Escape);
                self.escape(byte - 0x40);
            }
            // ENQ asks for the answerback message.
            (_, 0x05) => self.asked = true,
            (_, 0x0e | 0x0f) => self.changed.character_set |= byte == 0x0e,
            (Place::Text, _) => (),
            (Place::Escape, _) => self.escape(byte),
            (Place::Control, 0x20..=0x3f) => self.keep(byte),
            (Place::Control, 0x40..=0x7e) => {
                self.control(byte);
                self.enter(Place::Text);
            }
            (Place::Control, _) => (),
            (Place::String { command }, 0x07) => {
                self.end_string(command);
                self.enter(Place::Text);
            }
            (Place::String { .. }, _) => self.keep(byte),
        }
    }

    /// Goes to another place. A string that has not ended yet ends here.
    fn enter(&mut self, place: Place) {
        if let Place::String { command } = self.place {
            self.end_string(command);
        }
        self.place = place;
        self.sequence.clear();
    }

    fn keep(&mut self, byte: u8) {
        if self.sequence.len() < LOOKED_AT {
            self.sequence.push(byte);
        }
    }

    /// Takes a byte after ESC, or after ESC and intermediate bytes.
    fn escape(&mut self, byte: u8) {
        let intermediate = self.sequence.first().copied();
        match (intermediate, byte) {
            (None, b'[') => return self.enter(Place::Control),
            (None, b']') => return self.enter(Place::String { command: true }),
            (None, b'P' | b'X' | b'^' | b'_') => return self.enter(Place::String { command: false }),
            (_, 0x20..=0x2f) => return self.keep(byte),
            (_, ..=0x1f) => return,
            // DECID asks for the terminal's identity.
            (None, b'Z') => {
                self.asked = true;
                self.identities_asked += 1;
            }
            (None, b'c') => self.forget(),
            (None, b'=') => self.changed.keypad = true,
            (None, b'>') => self.changed.keypad = false,
            // This leaves the mode of VT52's sequences.
            (None, b'<') => _ = self.private.remove(&2),
            (None, b'n' | b'o' | b'|' | b'}' | b'~') => self.changed.character_set = true,
            (Some(b'(' | b')' | b'*' | b'+' | b'-' | b'.' | b'/'), _) => {
                self.changed.character_set |= byte != b'B';
            }
            (Some(b'%'), _) => self.changed.encoding = byte != b'G',
            (Some(b' '), b'F' | b'G') => self.changed.eight_bit_answers = byte == b'G',
            _ => (),
        }
        self.enter(Place::Text);
    }

    /// Forgets all changes, because the guest has reset the whole terminal.
    fn forget(&mut self) {
        *self = Self {
            asked: self.asked,
            identities_asked: self.identities_asked,
            ..Self::default()
        };
    }

    /// Takes the last byte of a control sequence, whose parameters are in `sequence`.
    fn control(&mut self, last: u8) {
        let sequence = std::mem::take(&mut self.sequence);
        let (prefix, rest) = match sequence.split_first() {
            Some((&prefix @ b'<'..=b'?', rest)) => (Some(prefix), rest),
            _ => (None, &sequence[..]),
        };
        let end = rest
            .iter()
            .position(|byte| (0x20..=0x2f).contains(byte))
            .unwrap_or(rest.len());
        let (parameters, intermediate) = (numbers(&rest[..end]), rest.get(end).copied());
        let first = parameters.first().copied().unwrap_or(0);
        match (prefix, intermediate, last) {
            (Some(b'?'), None, b'h' | b'l') => {
                note(
                    &mut self.private,
                    &parameters,
                    last == b'h',
                    &USUALLY_OFF,
                    &USUALLY_ON,
                );
            }
            // XTRESTORE sets modes to an earlier state, which is not known here.
            (Some(b'?'), None, b'r') => self.private.extend(parameters),
            (None, None, b'h' | b'l') => {
                note(
                    &mut self.ansi,
                    &parameters,
                    last == b'h',
                    &ANSI_USUALLY_OFF,
                    &ANSI_USUALLY_ON,
                );
            }
            (None, None, b'm') => self.changed.attributes = parameters != [0],
            (None, None, b'r') => self.changed.region = !rest.is_empty(),
            (None | Some(b'?'), None, b'i') if first == 4 || first == 5 => self.changed.printing = first == 5,
            (None, Some(b' '), b'q') => self.changed.cursor_shape = first != 0,
            (Some(b'>'), None, b'm' | b'n') => self.changed.key_modifiers = true,
            (Some(b'>'), None, b'u') => {
                let depth = self.keyboard();
                *depth = depth.saturating_add(1);
            }
            (Some(b'<'), None, b'u') => {
                let depth = self.keyboard();
                *depth = depth.saturating_sub(u32::from(first.max(1)));
            }
            (Some(b'='), None, b'u') => self.changed.keyboard_flags = true,
            (None, None, b'c') if first == 0 => self.identities_asked += 1,
            _ => (),
        }
        self.asked |= !is_silent(prefix, intermediate, last);
    }

    fn keyboard(&mut self) -> &mut u32 {
        let alternate = ALTERNATE_SCREENS.iter().any(|mode| self.private.contains(mode));
        &mut self.keyboards[usize::from(alternate)]
    }

    fn end_string(&mut self, command: bool) {
        // A string can ask for many things, such as the clipboard, colours, settings or pictures, so each counts as a question.
        self.asked = true;
        let mut parts = self.sequence.split(|&byte| byte == b';');
        let Some(number) = parts.next().filter(|_| command).map(number) else {
            return;
        };
        if number == 8 {
            self.changed.link = self.sequence != b"8;;";
        }
        if COLOURS.iter().any(|&(set, _)| set == number) && !parts.all(|part| part == b"?") {
            self.colours.insert(number);
        }
    }

    /// The bytes that undo all lasting changes. Empty if there are none.
    pub fn undo(&self) -> Vec<u8> {
        let mut undo = String::new();
        let mut when = |changed: bool, bytes: &str| {
            if changed {
                undo.push_str(bytes);
            }
        };
        // CAN ends an incomplete sequence. In terminals that ignore CAN in a string, ST ends the string.
        when(self.place != Place::Text, "\x18");
        when(matches!(self.place, Place::String { .. }), "\x1b\\");
        when(self.private.contains(&2), "\x1b<");
        when(self.changed.printing, "\x1b[4i");
        when(self.changed.eight_bit_answers, "\x1b F");
        when(self.changed.encoding, "\x1b%G");
        when(self.changed.key_modifiers, "\x1b[>4m");
        when(self.changed.keyboard_flags, "\x1b[=0u");
        // Each screen has a keyboard stack of its own.
        let [usual, alternate] = self.keyboards.map(|depth| format!("\x1b[<{depth}u"));
        when(self.keyboards[1] > 0, &alternate);
        for mode in self.private.iter().filter(|&&mode| mode != 2) {
            let usually = if USUALLY_ON.contains(mode) { 'h' } else { 'l' };
            when(true, &format!("\x1b[?{mode}{usually}"));
        }
        when(self.keyboards[0] > 0, &usual);
        for mode in &self.ansi {
            let usually = if ANSI_USUALLY_ON.contains(mode) { 'h' } else { 'l' };
            when(true, &format!("\x1b[{mode}{usually}"));
        }
        // The cursor is saved and restored, because resetting the scroll region moves it.
        when(self.changed.region, "\x1b7\x1b[r\x1b8");
        when(self.changed.keypad, "\x1b>");
        when(self.changed.character_set, "\x0f\x1b(B\x1b)B");
        when(self.changed.cursor_shape, "\x1b[0 q");
        when(self.changed.link, "\x1b]8;;\x1b\\");
        for (_, reset) in COLOURS.iter().filter(|(set, _)| self.colours.contains(set)) {
            when(true, &format!("\x1b]{reset}\x1b\\"));
        }
        when(self.changed.attributes, "\x1b[m");
        undo.into_bytes()
    }

    /// The bytes that undo all changes, whether the next bytes of the output reach the terminal or not.
    pub fn undo_with(&self, bytes: &[u8]) -> Vec<u8> {
        let mut later = self.clone();
        later.watch(bytes);
        let (mut now, later) = (self.undo(), later.undo());
        if now != later {
            now.extend(later);
        }
        now
    }

    /// The bytes that set again the modes that the guest had set, after [`undo`](Self::undo). Other changes are not made
    /// again: a program that relies on them makes them anew when it draws.
    pub fn redo(&self) -> Vec<u8> {
        let mut redo = String::new();
        // VT52's sequences (mode 2) come last, since the others mean nothing there.
        let private = self.private.iter().filter(|&&mode| mode != 2);
        for mode in private.chain(self.private.get(&2)) {
            if USUALLY_ON.contains(mode) {
                redo.push_str(&format!("\x1b[?{mode}l"));
            } else if USUALLY_OFF.contains(mode) {
                redo.push_str(&format!("\x1b[?{mode}h"));
            }
        }
        for mode in &self.ansi {
            let unusually = if ANSI_USUALLY_ON.contains(mode) { 'l' } else { 'h' };
            redo.push_str(&format!("\x1b[{mode}{unusually}"));
        }
        if self.changed.keypad {
            redo.push_str("\x1b=");
        }
        redo.into_bytes()
    }
}

/// Records which of `modes` now differ from their usual state, and which no longer do.
fn note(changed: &mut BTreeSet<u16>, modes: &[u16], on: bool, usually_off: &[u16], usually_on: &[u16]) {
    for mode in modes {
        let usually = match on {
            true => usually_on,
            false => usually_off,
        };
        let unusually = match on {
            true => usually_off,
            false => usually_on,
        };
        if unusually.contains(mode) {
            changed.insert(*mode);
        } else if usually.contains(mode) {
            changed.remove(mode);
        }
    }
}

/// Whether no terminal answers this control sequence. Switching a mode on can be answered at once, for example with where the
/// focus is.
fn is_silent(prefix: Option<u8>, intermediate: Option<u8>, last: u8) -> bool {
    match (prefix, intermediate) {
        (None, None) => matches!(
            last,
            b'@'..=b'M' | b'P' | b'S' | b'T' | b'X' | b'Z' | b'`'..=b'b' | b'd'..=b'g' | b'h' | b'l' | b'm' | b'r'
                | b's' | b'u'
        ),
        (Some(b'?'), None) => matches!(last, b'J' | b'K' | b'l' | b'r' | b's'),
        (Some(b'>' | b'<' | b'='), None) => matches!(last, b'm' | b'n') || last == b'u',
        (None, Some(b' ')) => last == b'q',
        _ => false,
    }
}

fn numbers(parameters: &[u8]) -> Vec<u16> {
    parameters.split(|&byte| byte == b';').map(number).collect()
}

/// Reads a decimal number. No digits give 0; a number that is too large, or a text that is no number, gives the largest.
fn number(digits: &[u8]) -> u16 {
    let digits = std::str::from_utf8(digits).unwrap_or("?");
    match digits {
        "" => 0,
        digits => digits.parse().unwrap_or(u16::MAX),
    }
}

#[cfg(test)]
#[path = "guest_modes_test.rs"]
mod tests;
