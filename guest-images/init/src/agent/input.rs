//! The program's input: asked of the host when the program reads, and no more than it reads.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use coracle_agent_protocol::WINDOW;
use nix::poll::PollFlags;

use super::streams::would_block;

/// What is asked for when nothing says how much a program of the person's reads: what a pipe's first page holds.
const PAGE: u32 = 4096;
/// The key that ends a terminal's input at the start of a line, and elsewhere passes on what is typed of the line.
const CTRL_D: u8 = 4;

mod ioctl {
    // guest-images/kernel/patches: how many bytes the reader of an empty pipe waits for.
    nix::ioctl_read!(pipe_asked, b'W', 0x62, i32);
}

/// How the program takes its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A pipe that tells when its reader waits.
    AskedPipe,
    /// A pipe that does not: up to so much is asked for ahead of the program.
    Pipe(u32),
    /// A terminal, to which a person types ahead of the program.
    Terminal,
}

pub struct Input {
    /// The end that is written to; nothing once it is closed.
    end: Option<File>,
    kind: Kind,
    /// What has arrived and is not written yet.
    waiting: Vec<u8>,
    /// Nothing is typed yet of a terminal's line.
    is_line_empty: bool,
    /// The host was asked, and has not answered.
    is_asked: bool,
    /// The host has no more.
    has_ended: bool,
}

impl Input {
    /// `end` is one that does not block.
    pub fn new(end: File, is_terminal: bool) -> Self {
        let kind = match asked(end.as_fd()) {
            _ if is_terminal => Kind::Terminal,
            Ok(_) => Kind::AskedPipe,
            Err(_) => Kind::Pipe(PAGE),
        };
        Self::of_kind(end, kind)
    }

    /// For a program that reads all, and wants to wait for none of it.
    pub fn ahead(end: File) -> Self {
        Self::of_kind(end, Kind::Pipe(WINDOW))
    }

    fn of_kind(end: File, kind: Kind) -> Self {
        Self {
            end: Some(end),
            kind,
            waiting: Vec::new(),
            is_line_empty: true,
            is_asked: false,
            has_ended: false,
        }
    }

    /// What to wait for.
    pub fn wanted(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let flags = match self.kind {
            _ if !self.waiting.is_empty() => PollFlags::POLLOUT,
            // Only whether the program has closed its end.
            _ if self.is_asked => PollFlags::empty(),
            Kind::AskedPipe => PollFlags::POLLPRI,
            Kind::Pipe(_) | Kind::Terminal => PollFlags::POLLOUT,
        };
        self.end.as_ref().map(|end| (end.as_fd(), flags))
    }

    /// Does what can be done now. Returns for how many bytes the host is to be asked, if it is.
    pub fn go_on(&mut self, happened: PollFlags) -> Option<u32> {
        if happened.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            self.close();
        }
        self.write();
        let end = self.end.as_ref()?;
        if self.is_asked || !self.waiting.is_empty() || happened.is_empty() {
            return None;
        }
        let count = match self.kind {
            Kind::AskedPipe => asked(end.as_fd()).unwrap_or(0),
            Kind::Pipe(ahead) => ahead,
            Kind::Terminal => PAGE,
        };
        self.is_asked = count > 0;
        self.is_asked.then_some(count.min(WINDOW))
    }

    /// Takes the host's answer.
    pub fn take(&mut self, data: &[u8]) -> io::Result<()> {
        if !self.is_asked || data.len() > WINDOW as usize {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.is_asked = false;
        if let Some(last) = data.last() {
            self.is_line_empty = matches!(*last, b'\n' | b'\r' | CTRL_D);
        }
        if self.end.is_some() {
            self.waiting.extend(data);
            self.write();
        }
        Ok(())
    }

    /// The host has no more.
    pub fn end(&mut self) {
        // A program may leave a terminal open at its end, and is told so by a key.
        if self.kind == Kind::Terminal && !self.has_ended {
            if !self.is_line_empty {
                self.waiting.push(CTRL_D);
            }
            self.waiting.push(CTRL_D);
        }
        self.has_ended = true;
        self.is_asked = true;
        self.write();
    }

    fn write(&mut self) {
        while let Some(end) = &mut self.end
            && !self.waiting.is_empty()
        {
            match end.write(&self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if would_block(&error) => return,
                // The program has closed its end: the input is of no use any more.
                Err(_) => self.close(),
            }
        }
        if self.has_ended && self.kind != Kind::Terminal {
            self.close();
        }
    }

    /// No more is to come. The program reads the end behind what was written.
    pub fn close(&mut self) {
        self.end = None;
        self.waiting = Vec::new();
    }
}

/// How many bytes the reader of a pipe waits for; 0 if it does not wait. An error if this kernel does not tell.
fn asked(end: BorrowedFd) -> nix::Result<u32> {
    let mut count = 0;
    // SAFETY: the request writes one number, to a variable that outlives the call.
    unsafe { ioctl::pipe_asked(end.as_raw_fd(), &mut count) }?;
    Ok(count.try_into().unwrap_or(0))
}
