//! A pseudo-terminal: a person's terminal, with the trial as the person.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{ECHO, ICANON, ISIG, VEOF};

/// What a terminal does to what passes through it, as far as a program can set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    flags: [libc::tcflag_t; 4],
    characters: [libc::cc_t; libc::NCCS],
}

impl Modes {
    pub fn is_raw(&self) -> bool {
        self.flags[3] & (ICANON | ECHO | ISIG) == 0
    }
}

/// Both sides of a terminal. It is nobody's controlling terminal: one of a session is reset when the session's leader
/// ends, which would hide whether the program had restored it.
pub struct Terminal {
    /// Reads what the terminal shows; writes what the person types.
    pub person: File,
    /// What the program gets.
    pub program: OwnedFd,
}

impl Terminal {
    pub fn open(rows: u16, columns: u16) -> Self {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let (mut person, mut program) = (-1, -1);
        // SAFETY: openpty writes the two descriptors and reads the size; null asks for no name and no modes.
        let result = unsafe { libc::openpty(&mut person, &mut program, ptr::null_mut(), ptr::null(), &size) };
        assert_eq!(result, 0, "openpty: {}", io::Error::last_os_error());
        // SAFETY: openpty made both descriptors for us.
        let terminal = unsafe {
            Self {
                person: File::from_raw_fd(person),
                program: OwnedFd::from_raw_fd(program),
            }
        };
        terminal.set_unusual_modes();
        terminal
    }

    /// So that a program which sets what it takes for usual is told from one which restores.
    fn set_unusual_modes(&self) {
        let mut modes = self.termios();
        modes.c_cc[VEOF] = 0x05;
        modes.c_lflag &= !libc::ECHOCTL;
        // SAFETY: tcsetattr only reads the struct.
        let result = unsafe { libc::tcsetattr(self.program.as_raw_fd(), libc::TCSANOW, &modes) };
        assert_eq!(result, 0, "tcsetattr: {}", io::Error::last_os_error());
    }

    pub fn modes(&self) -> Modes {
        let termios = self.termios();
        Modes {
            flags: [termios.c_iflag, termios.c_oflag, termios.c_cflag, termios.c_lflag],
            characters: termios.c_cc,
        }
    }

    fn termios(&self) -> libc::termios {
        let mut termios = MaybeUninit::uninit();
        // SAFETY: tcgetattr writes a whole struct when it returns 0, and only then is it read.
        unsafe {
            let result = libc::tcgetattr(self.program.as_raw_fd(), termios.as_mut_ptr());
            assert_eq!(result, 0, "tcgetattr: {}", io::Error::last_os_error());
            termios.assume_init()
        }
    }
}
