//! A pseudo-terminal, on which the trial types and reads in the place of a person.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{ECHO, ICANON, ISIG, VEOF};

/// A terminal's modes (termios).
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

/// Both sides of a terminal. It is not a controlling terminal, because Linux resets one when its session ends, and a test
/// could then not see whether the program had restored the modes.
pub struct Terminal {
    /// The person's side: reading gives what the terminal shows, writing is typing.
    pub person: File,
    /// The program's side.
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
        // A program that had the person's side as well would never see its terminal closed.
        // SAFETY: the call touches no memory.
        let closes = |fd| unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
        assert!(closes(person) && closes(program));
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

    /// Sets an unusual mode, so that a program that restores the modes differs from one that sets the usual modes.
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
