//! A queue's ring of io_uring: what the host's kernel is asked for, and how its answers are fetched.
//!
//! The ring takes the operations of a disk on the disk's open files and nothing else, whatever somebody writes into its memory.

use std::io;
use std::os::fd::AsRawFd;
use std::thread;

use io_uring::register::Restriction;
use io_uring::types::Fixed;
use io_uring::{Builder, IoUring, Probe, cqueue, opcode, squeue};
use vmm_sys_util::eventfd::EventFd;

use super::image::Files;

/// The ring's table of files has the notifier at this place, and the image's files at those behind it.
pub const NOTIFIER: Fixed = Fixed(0);
/// The only file of an image that has one.
pub const IMAGE: Fixed = image_file(0);
/// linux/io_uring.h.
const ENTER_GETEVENTS: u32 = 1;

const OPCODES: [u8; 6] = [
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// What stands for the image's file with this number, from 0.
#[inline]
pub const fn image_file(number: u32) -> Fixed {
    Fixed(number + 1)
}

/// A ring for one queue. The thread that uses it must create it.
pub struct Ring<'d> {
    ring: IoUring,
    files: Files<'d>,
    notifier: &'d EventFd,
}

impl<'d> Ring<'d> {
    /// A ring for `depth` requests at once. Fails if the kernel is too old, or if io_uring is forbidden.
    pub fn new(image: Files<'d>, notifier: &'d EventFd, depth: u16) -> io::Result<Self> {
        // One entry more than requests, for the read of the notifier.
        let entries = u32::from(depth) + 1;
        let disabled = || {
            let mut builder: Builder = IoUring::builder();
            builder.setup_r_disabled();
            builder
        };
        let ring = match disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(entries)
        {
            // Linux before 6.1 does not know these flags.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => disabled().build(entries)?,
            ring => ring?,
        };
        let submitter = ring.submitter();
        let mut probe = Probe::new();
        submitter.register_probe(&mut probe)?;
        if !OPCODES.iter().all(|opcode| probe.is_supported(*opcode)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut files = vec![notifier.as_raw_fd()];
        files.extend(image.descriptors());
        submitter.register_files(&files)?;
        let operations = OPCODES.map(Restriction::sqe_op);
        let files_only = Restriction::sqe_flags_required(squeue::Flags::FIXED_FILE.bits());
        let mut restrictions: Vec<_> = operations.into_iter().chain([files_only]).collect();
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(Self {
            ring,
            files: image,
            notifier,
        })
    }

    /// The files that [`image_file`] stands for.
    #[inline]
    pub fn files(&self) -> Files<'d> {
        self.files
    }

    /// What [`NOTIFIER`] stands for.
    #[inline]
    pub fn notifier(&self) -> &'d EventFd {
        self.notifier
    }

    /// Adds an entry for the next submission. Fails when the ring is full.
    ///
    /// # Safety
    /// The memory that the entry points to must stay in place until its completion.
    #[inline]
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    /// How many entries were pushed and not submitted.
    #[inline]
    pub fn pushed(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Whether the kernel hands over completions only when it is called.
    #[inline]
    pub fn has_task_work(&mut self) -> bool {
        self.ring.submission().taskrun()
    }

    /// Submits the entries that were pushed.
    #[inline]
    pub fn submit(&self) -> io::Result<usize> {
        self.ring.submit()
    }

    /// Submits the entries that were pushed, and waits until at least this many completions are there.
    pub fn enter(&self, completions: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(completions) {
                Ok(_) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // The kernel lacks memory or room for completions. A call that submits nothing makes it hand over
                // completions, which makes room.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    let submitter = self.ring.submitter();
                    // SAFETY: the call gets no pointer, and what is in the ring was pushed by `push`.
                    let _ = unsafe { submitter.enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) };
                    thread::yield_now();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The completions that are there.
    #[inline]
    pub fn completions(&mut self) -> cqueue::CompletionQueue<'_> {
        self.ring.completion()
    }
}

#[cfg(test)]
#[path = "ring_test.rs"]
mod tests;
