//! The engine `sync`: it carries out one request after the other, with a system call for each.

use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::Disk;
use super::chain::Chain;
use super::queue::{self, DiskQueue, Failure, QueueError, Stop};
use super::request::{Operation, PIECE, Request};
use crate::virtio::buffers::Buffers;

/// Serves `queue` until it is to be left. Returns the indices in its two rings that come next.
pub fn run(mut queue: DiskQueue, notifier: &EventFd) -> Result<(u16, u16), QueueError> {
    let mut chain = Chain::default();
    while !queue.is_stopped() {
        loop {
            queue.ignore_notifications();
            let served = serve_batch(&mut queue, &mut chain);
            // The driver is notified also of the requests that completed before a broken chain.
            queue.notify_used();
            served?;
            // For requests that became available before this point no notification comes, so they are served now.
            if queue.is_stopped() || !queue.want_notifications() {
                break;
            }
        }
        queue::wait(notifier)?;
    }
    Ok(queue.next_indices())
}

/// Serves the available requests, at most as many as the queue holds. That limit is needed because the driver is notified only
/// when this returns.
pub fn serve_batch<'m>(queue: &mut DiskQueue<'m>, chain: &mut Chain<'m>) -> Result<(), QueueError> {
    for _ in 0..queue.size() {
        if !queue.next(chain)? {
            break;
        }
        let result = match Request::parse(chain, queue.disk.image.limits()) {
            Ok(request) => {
                request.count_in(&queue.disk.traffic);
                let durable = queue.writes_through();
                execute(queue.disk, &request, chain, durable, queue.stop())
            }
            Err(refusal) => Err(Failure::Refused(refusal)),
        };
        queue.complete(chain, result)?;
    }
    Ok(())
}

/// Carries `request` out. Returns how many bytes it wrote to the start of the writable stream. Stops between two pieces of data
/// when `stop` abandons what was begun.
pub fn execute(
    disk: &Disk,
    request: &Request,
    chain: &mut Chain,
    durable: bool,
    stop: &Stop,
) -> Result<u64, Failure> {
    let Request {
        operation,
        offset,
        length,
    } = *request;
    let image = &disk.image;
    let done = match operation {
        Operation::Read => in_pieces(&mut chain.writable, offset, stop, |buffers, offset| {
            image.read(buffers, offset)
        }),
        Operation::Write => in_pieces(&mut chain.readable, offset, stop, |buffers, offset| {
            image.write(buffers, offset, durable)
        }),
        Operation::Flush => Some(image.flush()),
        Operation::Identify => return Ok(chain.writable.copy_from(&disk.id) as u64),
        Operation::Discard => Some(image.discard(offset, length)),
        Operation::WriteZeroes { may_unmap } => Some(image.write_zeroes(offset, length, may_unmap, durable)),
    };
    match done {
        None => Err(Failure::Stopped),
        Some(Ok(())) if operation == Operation::Read => Ok(length),
        Some(Ok(())) => Ok(0),
        Some(Err(error)) => Err(Failure::Io(*request, error)),
    }
}

/// Calls `each` for one piece of `buffers` after the other. Returns none if it was abandoned in between. Nearly all requests
/// have one piece, for which this allocates no memory.
#[inline]
fn in_pieces<'m>(
    buffers: &mut Buffers<'m>,
    mut offset: u64,
    stop: &Stop,
    each: impl Fn(&mut Buffers<'m>, u64) -> io::Result<()>,
) -> Option<io::Result<()>> {
    while buffers.length() > PIECE {
        let mut piece = buffers.split_to(PIECE);
        if let Err(error) = each(&mut piece, offset) {
            return Some(Err(error));
        }
        if stop.abandons() {
            return None;
        }
        offset += PIECE;
    }
    Some(each(buffers, offset))
}

#[cfg(test)]
#[path = "sync_test.rs"]
mod tests;
