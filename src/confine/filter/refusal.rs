//! How a refused system call ends the process: the kernel sends the thread SIGSYS, whose handler restores the terminal, says
//! which call was refused, and exits.
//!
//! No filter allows another handler for SIGSYS, and where a thread blocks the signal, the kernel ends the process itself. Code
//! that has taken a thread over can change the memory that the handler uses, and so perhaps keep the process alive; the refused
//! call has not been carried out all the same.

use std::fmt::{self, Write};
use std::{io, str};

use syscalls::Sysno;
use vmm_sys_util::signal::{register_signal_handler, unblock_signal};

use super::{END, KIND};

/// asm-generic/siginfo.h: the signal comes from seccomp.
const SYS_SECCOMP: libc::c_int = 1;
/// The place of the call's number in the `siginfo_t` of such a signal, which the crate libc does not name: after signal, errno,
/// code, four bytes that are not used, and the call's address.
const CALL: usize = 24;

/// Installs the handler, for the calling thread and those that it starts.
pub fn catch() -> io::Result<()> {
    extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel gives a handler that is installed with SA_SIGINFO, as this one is, a valid siginfo_t, which is
        // larger than what is read.
        let (code, call) = unsafe { ((*info).si_code, info.byte_add(CALL).cast::<u32>().read()) };
        let mut words = Words::default();
        // What does not fit is left out.
        let _ = match code {
            SYS_SECCOMP => words.refused(call),
            _ => writeln!(words, "coracle: another process sent SIGSYS"),
        };
        match END.get() {
            Some(end) => end(words.as_str()),
            // SAFETY: the call does not return. Nothing is known to end this process better.
            None => unsafe { libc::_exit(libc::EXIT_FAILURE) },
        }
    }
    register_signal_handler(libc::SIGSYS, handle)?;
    // The parent may have blocked it.
    unblock_signal(libc::SIGSYS).map_err(|error| io::Error::other(format!("{error:?}")))
}

/// Text of a limited length, which takes no memory of the allocator's: the thread may be inside of that.
struct Words {
    bytes: [u8; 512],
    length: usize,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            bytes: [0; 512],
            length: 0,
        }
    }
}

impl Words {
    fn refused(&mut self, call: u32) -> fmt::Result {
        let name = Sysno::new(call as usize).map_or("unknown to this version", |call| call.name());
        self.write_str("coracle: ")?;
        match KIND.get() {
            Some(kind) => write!(self, "{kind}"),
            None => self.write_str("a thread that starts, or ends the machine,"),
        }?;
        writeln!(
            self,
            " made system call {call} ({name}), which its filter refuses: the guest has taken Coracle over, or this is a bug in \
             Coracle\n  try: report these lines, with the command line"
        )
    }

    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
