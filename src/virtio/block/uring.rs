//! The engine `uring`: many requests at once, submitted and completed in batches.

use std::io;
use std::os::fd::AsRawFd;
use std::process;
use std::thread;

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::image::Raw;
use super::image::raw::{PUNCH_HOLE, is_unsupported, zeroing_mode};
use super::queue::{self, DiskQueue, Failure, QueueError};
use super::request::{Operation, PIECE, Request};
use super::sync;

/// Places in the ring's table of files.
const IMAGE: Fixed = Fixed(0);
const NOTIFIER: Fixed = Fixed(1);
/// linux/io_uring.h.
const ENTER_GETEVENTS: u32 = 1;
/// Requests past the page cache that are submitted together: a device works on them while the next ones are prepared.
const DIRECT_BATCH: usize = 2;
/// Bytes of requests that are submitted together: the kernel copies what is in the page cache in that call, and until it
/// returns nobody looks whether the device is being reset.
const BATCH: u64 = 8 * PIECE;
/// What the completion of a read of the notifier is known by; those of requests by their slot.
const NOTIFICATION: u64 = u64::MAX;

const OPCODES: [u8; 6] = [
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// A ring of the host's kernel for one queue. To be made by the thread that uses it.
pub struct Ring<'d> {
    ring: IoUring,
    raw: &'d Raw,
    notifier: &'d EventFd,
}

impl<'d> Ring<'d> {
    /// A ring for `depth` requests at once. Fails where the kernel is too old, or where it is forbidden.
    pub fn new(raw: &'d Raw, notifier: &'d EventFd, depth: u16) -> io::Result<Self> {
        // One more for the notifier.
        let entries = u32::from(depth) + 1;
        let ring = match IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(entries)
        {
            // Before Linux 6.1.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries)?,
            ring => ring?,
        };
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !OPCODES.iter().all(|opcode| probe.is_supported(*opcode)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let files = [raw.fd(), notifier.as_raw_fd()];
        ring.submitter().register_files(&files)?;
        Ok(Self { ring, raw, notifier })
    }

    /// Serves `queue` until its device is reset.
    pub fn run(self, queue: DiskQueue) -> Result<(), QueueError> {
        let depth = queue.size();
        let mut engine = Engine {
            ring: self,
            slots: (0..depth).map(|_| Slot::default()).collect(),
            free: (0..depth).rev().collect(),
            listening: false,
            count: Box::new(0),
            in_flight: 0,
            pushed: 0,
            queue,
        };
        engine.serve()
    }
}

/// A request on its way through the ring.
#[derive(Default)]
struct Slot<'m> {
    chain: Chain<'m>,
    request: Option<Request>,
    /// It is to be durable when it completes.
    durable: bool,
}

struct Engine<'d, 'm> {
    ring: Ring<'d>,
    queue: DiskQueue<'m>,
    /// As many as the queue has descriptors. The kernel reads the lists of buffers in their chains until it completes their
    /// requests; dropping the engine waits for that.
    slots: Vec<Slot<'m>>,
    free: Vec<u16>,
    /// The kernel waits for the notifier, and will write `count`.
    listening: bool,
    count: Box<u64>,
    /// Entries that were pushed and whose completions were not taken yet.
    in_flight: u32,
    /// Bytes of data in what was pushed since the last submission for their sake.
    pushed: u64,
}

impl Engine<'_, '_> {
    fn serve(&mut self) -> Result<(), QueueError> {
        while !self.queue.is_stopped() {
            self.queue.ignore_notifications();
            let begun = self.begin_available();
            // What is in the page cache is complete as soon as it is submitted, and other things may be by now.
            let entered = match self.has_completions_to_fetch() {
                true => self.enter(0),
                false => Ok(()),
            };
            // What needed no ring is complete, too, and completions before a broken chain count.
            let completed = self.complete();
            begun.and(entered.map_err(QueueError::Wait)).and(completed)?;
            // Chains made available up to this point came without a notification: once more, then.
            if self.queue.want_notifications() && !self.free.is_empty() {
                continue;
            }
            // The ring may just have read the notification that says that this is the end.
            if self.queue.is_stopped() {
                break;
            }
            if self.is_idle() {
                queue::wait(self.ring.notifier)?;
                continue;
            }
            self.listen()?;
            self.enter(1).map_err(QueueError::Wait)?;
            self.complete()?;
        }
        Ok(())
    }

    /// Whether there may be some that the kernel gives only to who asks.
    fn has_completions_to_fetch(&mut self) -> bool {
        let is_direct = self.ring.raw.is_direct();
        let submission = self.ring.ring.submission();
        submission.taskrun() || !is_direct && !submission.is_empty()
    }

    /// Whether the kernel works on nothing that was pushed.
    fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Takes what is complete, and tells the driver.
    fn complete(&mut self) -> Result<(), QueueError> {
        let reaped = self.reap();
        self.queue.notify_used();
        reaped
    }

    /// Waits until the kernel uses neither guest memory nor anything of this.
    fn drain(&mut self) {
        if self.listening
            && let Err(error) = self.ring.notifier.write(1)
        {
            log::error!("cannot wake a disk's ring to stop it: {error}");
        }
        while !self.is_idle() {
            if let Err(error) = self.enter(1) {
                // The kernel would go on to write memory that is the guest's, or nobody's.
                log::error!("cannot wait for a disk's requests: {error}");
                process::abort();
            }
            match thread::panicking() {
                // What belongs to a request may be half changed, so nothing but the number of completions is used.
                true => self.in_flight -= self.ring.ring.completion().count() as u32,
                // An error means that the driver broke its queue. It hears nothing more of it.
                false => drop(self.reap()),
            }
        }
        if !thread::panicking() {
            self.queue.notify_used();
        }
    }

    /// Submits what was pushed, and waits until so many completions are there.
    fn enter(&mut self, completions: usize) -> io::Result<()> {
        loop {
            match self.ring.ring.submit_and_wait(completions) {
                Ok(_) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // The kernel is short of something: it may have completions that make room, and gives them in a call
                // that submits nothing.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    let submitter = self.ring.ring.submitter();
                    // SAFETY: the call gets no pointer, and what is in the ring was pushed by `push`.
                    let _ = unsafe { submitter.enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) };
                    thread::yield_now();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn listen(&mut self) -> Result<(), QueueError> {
        if !self.listening {
            let count: *mut u64 = &mut *self.count;
            let read = opcode::Read::new(NOTIFIER, count.cast(), size_of::<u64>() as u32);
            // SAFETY: the box is freed with the engine, whose Drop waits for the completion.
            unsafe { self.push(read.build().user_data(NOTIFICATION)) }?;
            self.listening = true;
        }
        Ok(())
    }

    /// # Safety
    ///
    /// What the entry points to stays in place until its completion.
    unsafe fn push(&mut self, entry: squeue::Entry) -> Result<(), QueueError> {
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.ring.ring.submission().push(&entry) };
        // It has room for all slots and the notifier.
        pushed.map_err(|error| QueueError::Wait(io::Error::other(error)))?;
        self.in_flight += 1;
        let is_batch = self.pushed >= BATCH
            || self.ring.raw.is_direct() && self.ring.ring.submission().len() >= DIRECT_BATCH;
        if is_batch {
            self.pushed = 0;
            // What goes wrong goes wrong again in `enter`.
            let _ = self.ring.ring.submit();
        }
        Ok(())
    }

    /// Takes requests from the queue as long as there are some, and room for them, but no more than a queue full: the
    /// driver hears of what needed no ring only afterwards.
    fn begin_available(&mut self) -> Result<(), QueueError> {
        for _ in 0..self.queue.size() {
            let Some(&index) = self.free.last() else { break };
            let slot = &mut self.slots[usize::from(index)];
            if !self.queue.next(&mut slot.chain)? {
                break;
            }
            match Request::parse(&mut slot.chain, self.queue.disk.image.limits()) {
                Ok(request) => {
                    slot.request = Some(request);
                    slot.durable = self.queue.writes_through();
                    self.free.pop();
                    self.begin(index, request)?;
                }
                Err(refusal) => self.queue.complete(&slot.chain, Err(Failure::Refused(refusal)))?,
            }
        }
        Ok(())
    }

    /// Submits the request in slot `index`, or carries it out here when the ring is not for it.
    fn begin(&mut self, index: u16, request: Request) -> Result<(), QueueError> {
        let Slot { chain, durable, .. } = &self.slots[usize::from(index)];
        let (raw, disk) = (self.ring.raw, self.queue.disk);
        let for_ring = match request.operation {
            Operation::Read => raw.takes(&chain.writable),
            // The page cache takes a write at once, and most file systems would have a ring give it to a worker thread.
            Operation::Write => (raw.is_direct() || *durable) && raw.takes(&chain.readable),
            Operation::Flush => disk.image.may_flush().is_ok(),
            Operation::Identify => false,
            Operation::Discard | Operation::WriteZeroes { .. } => raw.takes_fallocate(),
        };
        let is_empty = request.length == 0 && request.operation != Operation::Flush;
        match for_ring && !is_empty {
            true => self.submit(index, request),
            false => self.carry_out(index, request),
        }
    }

    /// Does what is left of `request`, which is in slot `index`, without the ring.
    fn carry_out(&mut self, index: u16, request: Request) -> Result<(), QueueError> {
        let Slot { chain, durable, .. } = &mut self.slots[usize::from(index)];
        let left = match request.operation {
            Operation::Read => chain.writable.length(),
            Operation::Write => chain.readable.length(),
            _ => request.length,
        };
        let rest = Request {
            offset: request.offset + (request.length - left),
            length: left,
            ..request
        };
        let result = sync::execute(self.queue.disk, &rest, chain, *durable, self.queue.stop());
        // What was moved before counts too.
        let result = result.map(|written| match request.operation {
            Operation::Read => request.length,
            _ => written,
        });
        self.end(index, result)
    }

    /// Submits what is left of `request`, which is in slot `index`.
    fn submit(&mut self, index: u16, request: Request) -> Result<(), QueueError> {
        let Slot { chain, durable, .. } = &self.slots[usize::from(index)];
        self.pushed += match request.operation {
            Operation::Read => chain.writable.length().min(PIECE),
            Operation::Write => chain.readable.length().min(PIECE),
            _ => 0,
        };
        let entry = match request.operation {
            Operation::Read => {
                let left = &chain.writable;
                let offset = request.offset + (request.length - left.length());
                match piece(left.iovecs()) {
                    [one] => opcode::Read::new(IMAGE, one.iov_base.cast(), length(one))
                        .offset(offset)
                        .build(),
                    more => opcode::Readv::new(IMAGE, more.as_ptr(), more.len() as u32)
                        .offset(offset)
                        .build(),
                }
            }
            Operation::Write => {
                let left = &chain.readable;
                let offset = request.offset + (request.length - left.length());
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                match piece(left.iovecs()) {
                    [one] => opcode::Write::new(IMAGE, one.iov_base.cast(), length(one))
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                    more => opcode::Writev::new(IMAGE, more.as_ptr(), more.len() as u32)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Operation::Discard => fallocate(&request, PUNCH_HOLE),
            Operation::WriteZeroes { may_unmap } => fallocate(&request, zeroing_mode(may_unmap)),
            Operation::Flush | Operation::Identify => {
                opcode::Fsync::new(IMAGE).flags(FsyncFlags::DATASYNC).build()
            }
        };
        // SAFETY: the buffers are guest memory, which the queue borrows for longer than the engine lives. The list of them is
        // in the slot, which changes only after the completion, and is freed with the engine, whose Drop waits for it.
        unsafe { self.push(entry.user_data(index.into())) }
    }

    /// Takes all completions that are there.
    fn reap(&mut self) -> Result<(), QueueError> {
        let mut result = Ok(());
        loop {
            let completion = self.ring.ring.completion().next();
            let Some(completion) = completion else {
                return result;
            };
            self.in_flight -= 1;
            let ended = if completion.user_data() == NOTIFICATION {
                self.listening = false;
                heard(completion.result())
            } else {
                self.advance(&completion)
            };
            result = result.and(ended);
        }
    }

    /// Goes on with the request that `completion` is of.
    fn advance(&mut self, completion: &cqueue::Entry) -> Result<(), QueueError> {
        let index = completion.user_data() as u16;
        let slot = &mut self.slots[usize::from(index)];
        let Some(request) = slot.request else {
            return Ok(());
        };
        let image = &self.queue.disk.image;
        let outcome = match completion.result() {
            moved @ 0.. => Ok(moved as u64),
            error => Err(io::Error::from_raw_os_error(-error)),
        };
        let result = match (request.operation, outcome) {
            (_, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
                return self.submit(index, request);
            }
            // The ring would say the same again and again; a system call waits.
            (_, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return self.carry_out(index, request);
            }
            (Operation::Read, Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            (Operation::Write, Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
            (Operation::Read | Operation::Write, Ok(moved)) => {
                let left = match request.operation {
                    Operation::Read => &mut slot.chain.writable,
                    _ => &mut slot.chain.readable,
                };
                left.advance(moved);
                match left.length() > 0 {
                    true if self.queue.is_stopped() => return self.end(index, Err(Failure::Stopped)),
                    true => return self.submit(index, request),
                    false => Ok(()),
                }
            }
            (Operation::Flush, outcome) => image.flushed(outcome.map(drop)),
            (Operation::Discard, Err(error)) if is_unsupported(&error) => Ok(()),
            (Operation::WriteZeroes { .. }, outcome) => {
                let zeroed = match outcome {
                    Err(error) if is_unsupported(&error) => {
                        self.ring.raw.write_zero_bytes(request.offset, request.length)
                    }
                    outcome => outcome.map(drop),
                };
                match slot.durable {
                    true => zeroed.and_then(|()| image.flush()),
                    false => zeroed,
                }
            }
            (_, outcome) => outcome.map(drop),
        };
        let written = match request.operation {
            Operation::Read => request.length,
            _ => 0,
        };
        let result = result.map(|()| written);
        self.end(index, result.map_err(|error| Failure::Io(request, error)))
    }

    /// Completes the request in slot `index` and frees the slot.
    fn end(&mut self, index: u16, result: Result<u64, Failure>) -> Result<(), QueueError> {
        let slot = &mut self.slots[usize::from(index)];
        slot.request = None;
        self.free.push(index);
        self.queue.complete(&slot.chain, result)
    }
}

/// Also when a panic unwinds: what the kernel still writes to is freed next.
impl Drop for Engine<'_, '_> {
    fn drop(&mut self) {
        self.drain();
    }
}

/// What became of the read of the notifier.
fn heard(result: i32) -> Result<(), QueueError> {
    match result {
        0.. => Ok(()),
        error => match io::Error::from_raw_os_error(-error) {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(QueueError::Wait(error)),
        },
    }
}

/// As many of `iovecs`, from the first on, as are no more than a piece and as one call takes. The first alone may be more.
fn piece(iovecs: &[libc::iovec]) -> &[libc::iovec] {
    let mut room = PIECE;
    let fits = |iovec: &&libc::iovec| {
        let left = room.checked_sub(iovec.iov_len as u64);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let most = &iovecs[..iovecs.len().min(libc::UIO_MAXIOV as usize)];
    let count = most.iter().take_while(fits).count();
    &iovecs[..count.max(1).min(iovecs.len())]
}

/// Of a submission of one buffer.
fn length(iovec: &libc::iovec) -> u32 {
    (iovec.iov_len as u64).min(PIECE) as u32
}

fn fallocate(request: &Request, mode: i32) -> squeue::Entry {
    opcode::Fallocate::new(IMAGE, request.length)
        .offset(request.offset)
        .mode(mode)
        .build()
}

#[cfg(test)]
#[path = "uring_test.rs"]
mod tests;
