//! What a terminal shows, and waits for it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use super::running::PATIENCE;
use super::terminal::{Modes, Terminal};
use super::{Coracle, Guest, Running, need_kvm};

/// For what nothing announces.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::yield_now();
    }
}

/// Reads what the terminal shows up to `text`.
#[track_caller]
pub fn shown_up_to(terminal: &Terminal, text: &str) -> String {
    let mut shown = Vec::new();
    let mut byte = [0];
    while !shown.ends_with(text.as_bytes()) {
        wait_until(text, || has_output(terminal));
        (&terminal.person).read_exact(&mut byte).unwrap();
        shown.push(byte[0]);
    }
    String::from_utf8(shown).unwrap()
}

/// Bytes that the terminal has for its next reader, whether or not a line of them is whole.
pub fn unread(terminal: &Terminal) -> i32 {
    let program = terminal.program.as_raw_fd();
    let mut count = 0;
    // SAFETY: tcgetattr writes the struct and tcsetattr only reads it; FIONREAD writes one number.
    unsafe {
        let mut before = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(program, &mut before), 0);
        let mut modes = before;
        modes.c_lflag &= !libc::ICANON;
        libc::tcsetattr(program, libc::TCSANOW, &modes);
        libc::ioctl(program, libc::FIONREAD, &mut count);
        libc::tcsetattr(program, libc::TCSANOW, &before);
    }
    count
}

pub fn has_output(terminal: &Terminal) -> bool {
    let mut poll = libc::pollfd {
        fd: terminal.person.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, as it says.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 }
}

/// All that the terminal shows until `text`, which is written here behind everything else.
pub fn shown_in_all(terminal: &Terminal) -> String {
    const MARK: &str = "-the end-";
    let mut program = fs::File::from(terminal.program.try_clone().unwrap());
    program.write_all(MARK.as_bytes()).unwrap();
    let shown = shown_up_to(terminal, MARK);
    shown.trim_end_matches(MARK).to_owned()
}

/// A run of this guest on a terminal, and the terminal's modes before it.
pub fn run_on_a_terminal(guest: &Guest) -> (Running, Terminal, Modes) {
    need_kvm();
    let terminal = Terminal::open(24, 80);
    let before = terminal.modes();
    let running = Coracle::run(&guest.linux64()).on_terminal(&terminal).start();
    (running, terminal, before)
}

/// The state of a process is the field after its name in parentheses (proc(5)).
pub fn is_stopped(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    stat.rsplit_once(')')
        .is_some_and(|(_, fields)| fields.trim_start().starts_with('T'))
}
