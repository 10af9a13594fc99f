//! The engine `sync`: one request after the other, a system call each.

use vmm_sys_util::eventfd::EventFd;

use super::Disk;
use super::chain::Chain;
use super::queue::{self, DiskQueue, Failure, QueueError};
use super::request::{Operation, Request};

/// Serves `queue` until its device is reset.
pub fn run(mut queue: DiskQueue, notifier: &EventFd) -> Result<(), QueueError> {
    let mut chain = Chain::default();
    while !queue.is_stopped() {
        loop {
            queue.ignore_notifications();
            let served = serve_batch(&mut queue, &mut chain);
            // Completions before a broken chain count too.
            queue.notify_used();
            served?;
            // Chains made available up to this point came without a notification: once more, then.
            if queue.is_stopped() || !queue.want_notifications() {
                break;
            }
        }
        queue::wait(notifier)?;
    }
    Ok(())
}

/// Serves what is available, but no more than a queue full: the driver hears of the first only after the last.
pub fn serve_batch<'m>(queue: &mut DiskQueue<'m>, chain: &mut Chain<'m>) -> Result<(), QueueError> {
    for _ in 0..queue.size() {
        if !queue.next(chain)? {
            break;
        }
        let result = match Request::parse(chain, queue.disk.image.limits()) {
            Ok(request) => execute(queue.disk, &request, chain, queue.writes_through()),
            Err(refusal) => Err(Failure::Refused(refusal)),
        };
        queue.complete(chain, result)?;
    }
    Ok(())
}

/// Carries `request` out. Returns how many bytes it wrote to the start of the writable stream.
pub fn execute(disk: &Disk, request: &Request, chain: &mut Chain, durable: bool) -> Result<u64, Failure> {
    let Request {
        operation,
        offset,
        length,
    } = *request;
    let image = &disk.image;
    let done = match operation {
        Operation::Read => image.read(&mut chain.writable, offset),
        Operation::Write => image.write(&mut chain.readable, offset, durable),
        Operation::Flush => image.flush(),
        Operation::Identify => return Ok(chain.writable.copy_from(&disk.id) as u64),
        Operation::Discard => image.discard(offset, length),
        Operation::WriteZeroes { may_unmap } => image.write_zeroes(offset, length, may_unmap, durable),
    };
    match done {
        Ok(()) if operation == Operation::Read => Ok(length),
        Ok(()) => Ok(0),
        Err(error) => Err(Failure::Io(*request, error)),
    }
}
