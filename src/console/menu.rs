//! What the keys after the escape key do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::escape::{Command, KEYS, PROGRAM_KEYS};
use super::signals::with_all_blocked;
use super::stderr::tell;
use crate::confine::filter;

/// Where the escape key is pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the terminal of the guest's own process.
    Run,
    /// In the terminal of a command that the guest runs.
    Program,
    /// In a terminal that is attached to the guest's console.
    Attached,
}

/// What can be done with a guest from a terminal on its console. Both may wait for a disk of the host's that hangs.
pub trait Steered: Send + Sync {
    /// Asks the guest to power off, from an attached terminal: a run does that itself. An error says why it cannot be asked.
    fn ask_to_stop(&self) -> Result<(), String> {
        Err("its own process has to be asked".into())
    }
    /// Has the guest stand still, or go on if it does. Returns whether it stands still now.
    fn pause_or_resume(&self) -> Result<bool, String>;
}

/// The keys in one place.
pub struct Menu {
    place: Place,
    guest: Option<Arc<dyn Steered>>,
    /// A thread does something with the guest.
    is_busy: Arc<AtomicBool>,
}

impl Menu {
    pub fn new(place: Place, guest: Option<Arc<dyn Steered>>) -> Self {
        Self {
            place,
            guest,
            is_busy: Arc::default(),
        }
    }

    /// Obeys a command, unless the session has to: then this gives it back.
    pub fn obey(&self, command: Command) -> Option<Command> {
        if let Some(refusal) = refusal(command, self.place) {
            tell(format_args!("\ncoracle: {refusal}"));
            return None;
        }
        match command {
            Command::Quit | Command::Detach | Command::Past | Command::Record => return Some(command),
            Command::Stop if self.place == Place::Run => return Some(command),
            Command::Help => tell(help(self.place)),
            Command::Stop => self.work(|guest| {
                guest
                    .ask_to_stop()
                    .map(|()| "the guest was asked to power off".into())
            }),
            Command::Pause => self.work(|guest| {
                let words = |is_paused| match is_paused {
                    true => "the guest stands still (Ctrl-A p lets it go on)".into(),
                    false => "the guest goes on".into(),
                };
                guest.pause_or_resume().map(words)
            }),
        }
        None
    }

    /// Does something with the guest on a thread of its own, so that the terminal is not kept waiting, and tells what became of it.
    fn work(&self, work: impl FnOnce(&dyn Steered) -> Result<String, String> + Send + 'static) {
        let Some(guest) = self.guest.clone() else { return };
        if self.is_busy.swap(true, Ordering::Relaxed) {
            return tell("\ncoracle: what the last key asked for is not done yet");
        }
        let is_busy = self.is_busy.clone();
        let work = move || {
            // It does what requests at the control socket do.
            filter::narrow(filter::Kind::Control);
            let done = work(&*guest);
            is_busy.store(false, Ordering::Relaxed);
            match done {
                Ok(words) => tell(format_args!("\ncoracle: {words}")),
                Err(why) => tell(format_args!("\ncoracle: this cannot be done: {why}")),
            }
        };
        if let Err(error) = with_all_blocked(|| thread::Builder::new().name("menu".into()).spawn(work)) {
            self.is_busy.store(false, Ordering::Relaxed);
            tell(format_args!("\ncoracle: this cannot be done: {error}"));
        }
    }
}

/// Why a command is not obeyed in a place, and what to do instead. Nothing where it is.
fn refusal(command: Command, place: Place) -> Option<&'static str> {
    match (command, place) {
        (Command::Quit, Place::Attached) => Some(
            "Ctrl-A x does not end a guest from an attached terminal: coracle kill does, and Ctrl-A d detaches",
        ),
        (Command::Detach, Place::Run) => Some(
            "this terminal is the guest's own, and cannot detach from it: start the guest with -d, and use coracle attach",
        ),
        (Command::Past | Command::Record, Place::Run) => Some(
            "the guest's own process can open no file and start no program: give the guest a name (--name), and use this key in \
             a terminal that is attached to it (coracle attach)",
        ),
        _ => None,
    }
}

fn words(command: Command) -> &'static str {
    match command {
        Command::Quit => "quit: stop the guest at once, as if its power was cut",
        Command::Stop => "stop: ask the guest to power off",
        Command::Pause => "pause the guest, or let it go on",
        Command::Detach => "detach: the guest runs on",
        Command::Past => "look at what was printed, with $PAGER or less",
        Command::Record => "record in a file what is printed from now on, or end that",
        Command::Help => "this help",
    }
}

fn help(place: Place) -> String {
    let keys = match place {
        Place::Program => &PROGRAM_KEYS[..],
        Place::Run | Place::Attached => &KEYS,
    };
    let keys = keys
        .iter()
        .filter(|(_, command)| refusal(*command, place).is_none());
    let lines = keys.map(|(key, command)| format!("\nCtrl-A {}       {}", char::from(*key), words(*command)));
    lines.collect::<String>() + "\nCtrl-A Ctrl-A  send one Ctrl-A to the guest"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_of_a_place_lists_the_keys_that_work_there() {
        for (place, keys) in [
            (Place::Run, "xsph"),
            (Place::Program, "xh"),
            (Place::Attached, "spdlrh"),
        ] {
            let help = help(place);
            let listed: String = help
                .lines()
                .filter_map(|line| line.strip_prefix("Ctrl-A ")?.chars().next())
                .filter(char::is_ascii_lowercase)
                .collect();
            assert_eq!(listed, keys, "{help}");
            assert!(help.ends_with("send one Ctrl-A to the guest"));
        }
    }

    struct Fake;

    impl Steered for Fake {
        fn ask_to_stop(&self) -> Result<(), String> {
            Err("no".into())
        }

        fn pause_or_resume(&self) -> Result<bool, String> {
            Ok(true)
        }
    }

    #[test]
    fn only_what_the_session_has_to_do_is_given_back() {
        let menu = Menu::new(Place::Run, Some(Arc::new(Fake)));
        let given: Vec<_> = KEYS
            .iter()
            .filter_map(|(_, command)| menu.obey(*command))
            .collect();
        assert_eq!(given, [Command::Quit, Command::Stop]);
        let attached = Menu::new(Place::Attached, None);
        assert_eq!(attached.obey(Command::Detach), Some(Command::Detach));
        assert_eq!(attached.obey(Command::Quit), None);
    }
}
