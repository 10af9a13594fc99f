//! The engine `uring`: it works on many requests at the same time, and submits and completes them in batches.

use std::io;
use std::process;
use std::thread;

use io_uring::types::FsyncFlags;
use io_uring::{cqueue, opcode, squeue};

use super::chain::Chain;
use super::image::raw::{PUNCH_HOLE, is_unsupported, zeroing_mode};
use super::queue::{self, DiskQueue, Failure, QueueError};
use super::request::{Operation, PIECE, Request};
use super::ring::{IMAGE, NOTIFIER, Ring, image_file};
use super::sync;

/// How many direct requests are submitted together. The host's device works on them while the next ones are prepared.
const DIRECT_BATCH: usize = 2;
/// How many bytes of requests are submitted together. The kernel copies data that is in the page cache during that call, and
/// a reset of the device is not noticed before the call returns.
const BATCH: u64 = 8 * PIECE;
/// Marks the completion of a read of the notifier. The completion of a request is marked by the request's slot.
const NOTIFICATION: u64 = u64::MAX;

/// Serves `queue` by `ring` until it is to be left. Returns the indices in its two rings that come next.
pub fn run(ring: &mut Ring, queue: DiskQueue) -> Result<(u16, u16), QueueError> {
    let depth = queue.size();
    let mut engine = Engine {
        ring,
        slots: (0..depth).map(|_| Slot::default()).collect(),
        free: (0..depth).rev().collect(),
        listening: false,
        count: Box::new(0),
        in_flight: 0,
        pushed: 0,
        queue,
    };
    engine.serve()?;
    engine.drain()?;
    Ok(engine.queue.next_indices())
}

/// A request that the ring works on.
#[derive(Default)]
struct Slot<'m> {
    chain: Chain<'m>,
    request: Option<Request>,
    /// Whether it must be durable when it completes.
    durable: bool,
}

struct Engine<'r, 'd, 'm> {
    ring: &'r mut Ring<'d>,
    queue: DiskQueue<'m>,
    /// One slot for each descriptor of the queue. The kernel reads the list of buffers in a slot's chain until it completes the
    /// request; dropping the engine waits for that.
    slots: Vec<Slot<'m>>,
    free: Vec<u16>,
    /// Whether a read of the notifier is in the ring. It writes to `count`.
    listening: bool,
    count: Box<u64>,
    /// How many entries were pushed whose completions were not taken yet.
    in_flight: u32,
    /// How many bytes of data were pushed since `BATCH` bytes were last submitted.
    pushed: u64,
}

impl Engine<'_, '_, '_> {
    fn serve(&mut self) -> Result<(), QueueError> {
        while !self.queue.is_stopped() {
            self.queue.ignore_notifications();
            let begun = self.begin_available();
            // Reads from the page cache are complete as soon as they are submitted, and other requests may be complete, too.
            let entered = match self.has_completions_to_fetch() {
                true => self.ring.enter(0),
                false => Ok(()),
            };
            // Requests that needed no ring are complete, too. The driver is notified also of those that completed before a
            // broken chain.
            let completed = self.complete();
            begun.and(entered.map_err(QueueError::Wait)).and(completed)?;
            // For requests that became available before this point no notification comes, so they are served now.
            if self.queue.want_notifications() && !self.free.is_empty() {
                continue;
            }
            // The ring may have read the notification that announces the reset.
            if self.queue.is_stopped() {
                break;
            }
            if self.is_idle() {
                queue::wait(self.ring.notifier())?;
                continue;
            }
            self.listen()?;
            self.ring.enter(1).map_err(QueueError::Wait)?;
            self.complete()?;
        }
        Ok(())
    }

    /// Whether there may be completions that the kernel hands over only when it is called.
    fn has_completions_to_fetch(&mut self) -> bool {
        self.ring.has_task_work() || !self.ring.files().is_direct() && self.ring.pushed() > 0
    }

    /// Whether the kernel works on no entry that was pushed.
    fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Takes the completions that are there, and notifies the driver.
    fn complete(&mut self) -> Result<(), QueueError> {
        let reaped = self.reap();
        self.queue.notify_used();
        reaped
    }

    /// Waits until the kernel uses neither guest memory nor the memory of this engine. An error means that the driver broke its
    /// queue.
    fn drain(&mut self) -> Result<(), QueueError> {
        let mut reaped = Ok(());
        if self.listening
            && let Err(error) = self.ring.notifier().write(1)
        {
            log::error!("cannot wake a disk's ring to stop it: {error}");
        }
        while !self.is_idle() {
            if let Err(error) = self.ring.enter(1) {
                // If this returned, the kernel would write to memory that has been freed.
                log::error!("cannot wait for a disk's requests: {error}");
                process::abort();
            }
            match thread::panicking() {
                // After a panic the slots may be half changed, so only the number of completions is used.
                true => self.in_flight -= self.ring.completions().count() as u32,
                false => reaped = reaped.and(self.reap()),
            }
        }
        if !thread::panicking() {
            self.queue.notify_used();
        }
        reaped
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
    /// The memory that the entry points to must stay in place until its completion.
    unsafe fn push(&mut self, entry: squeue::Entry) -> Result<(), QueueError> {
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.ring.push(&entry) };
        // This cannot fail: the ring has room for all slots and the notifier.
        pushed.map_err(QueueError::Wait)?;
        self.in_flight += 1;
        let is_batch =
            self.pushed >= BATCH || self.ring.files().is_direct() && self.ring.pushed() >= DIRECT_BATCH;
        if is_batch {
            self.pushed = 0;
            // The error is ignored because `enter` will meet it again.
            let _ = self.ring.submit();
        }
        Ok(())
    }

    /// Takes requests from the queue while there are requests and free slots, at most as many as the queue holds. That limit is
    /// needed because the driver is notified of requests without the ring only when this returns.
    fn begin_available(&mut self) -> Result<(), QueueError> {
        for _ in 0..self.queue.size() {
            let Some(&index) = self.free.last() else { break };
            let slot = &mut self.slots[usize::from(index)];
            if !self.queue.next(&mut slot.chain)? {
                break;
            }
            match Request::parse(&mut slot.chain, self.queue.disk.image.limits()) {
                Ok(request) => {
                    request.count_in(&self.queue.disk.traffic);
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

    /// Submits the request in slot `index`, or carries it out here if the ring does not suit it.
    fn begin(&mut self, index: u16, request: Request) -> Result<(), QueueError> {
        let Slot { chain, durable, .. } = &self.slots[usize::from(index)];
        let (files, disk) = (self.ring.files(), self.queue.disk);
        let for_ring = match request.operation {
            Operation::Read => files.takes(&chain.writable),
            // A write into the page cache completes at once. For most file systems a ring would hand it to a worker thread of
            // the kernel, which takes longer.
            Operation::Write => (files.is_direct() || *durable) && files.takes(&chain.readable),
            Operation::Flush => files.is_written() && disk.image.may_flush().is_ok(),
            Operation::Identify => false,
            Operation::Discard | Operation::WriteZeroes { .. } => files.takes_fallocate(),
        };
        let is_empty = request.length == 0 && request.operation != Operation::Flush;
        match for_ring && !is_empty {
            true => self.submit(index, request),
            false => self.carry_out(index, request),
        }
    }

    /// Carries out the rest of `request`, which is in slot `index`, without the ring.
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
        // The bytes that the ring moved before count, too.
        let result = result.map(|written| match request.operation {
            Operation::Read => request.length,
            _ => written,
        });
        self.end(index, result)
    }

    /// Submits the rest of `request`, which is in slot `index`.
    fn submit(&mut self, index: u16, request: Request) -> Result<(), QueueError> {
        let Slot { chain, durable, .. } = &self.slots[usize::from(index)];
        let left = match request.operation {
            Operation::Read => chain.writable.length(),
            Operation::Write => chain.readable.length(),
            _ => 0,
        };
        let end = request.offset + request.length;
        let Some((file, offset)) = self.ring.files().place(end - left..end) else {
            // It begins in one file and ends in another, which is rare.
            return self.carry_out(index, request);
        };
        let file = image_file(file);
        self.pushed += left.min(PIECE);
        let entry = match request.operation {
            Operation::Read => match piece(chain.writable.iovecs()) {
                [one] => opcode::Read::new(file, one.iov_base.cast(), length(one))
                    .offset(offset)
                    .build(),
                more => opcode::Readv::new(file, more.as_ptr(), more.len() as u32)
                    .offset(offset)
                    .build(),
            },
            Operation::Write => {
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                match piece(chain.readable.iovecs()) {
                    [one] => opcode::Write::new(file, one.iov_base.cast(), length(one))
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                    more => opcode::Writev::new(file, more.as_ptr(), more.len() as u32)
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
            let completion = self.ring.completions().next();
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

    /// Continues or ends the request to which `completion` belongs.
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
            // The ring would return the same error again; a system call waits instead.
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
                    true if self.queue.stop().abandons() => return self.end(index, Err(Failure::Stopped)),
                    true => return self.submit(index, request),
                    false => Ok(()),
                }
            }
            (Operation::Flush, outcome) => image.flushed(outcome.map(drop)),
            (Operation::Discard, Err(error)) if is_unsupported(&error) => Ok(()),
            (Operation::WriteZeroes { .. }, outcome) => {
                let zeroed = match outcome {
                    Err(error) if is_unsupported(&error) => {
                        self.ring.files().write_zero_bytes(request.offset, request.length)
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

/// Also when a panic unwinds: the memory that the kernel may still write to is freed after this.
impl Drop for Engine<'_, '_, '_> {
    fn drop(&mut self) {
        // The queue is not used after this.
        let _ = self.drain();
    }
}

/// The result of the read of the notifier.
fn heard(result: i32) -> Result<(), QueueError> {
    match result {
        0.. => Ok(()),
        error => match io::Error::from_raw_os_error(-error) {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(QueueError::Wait(error)),
        },
    }
}

/// The first of `iovecs`: as many as one call takes, and together no longer than a piece. If the first one alone is longer, it
/// is the only one.
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

/// The length that a submission of this one buffer has.
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
