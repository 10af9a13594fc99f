//! A disk, through a driver that knows nothing of Coracle.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::transport::mmio::MmioTransport;

use crate::machine::{OneToOne, settle};
use crate::plan::{self, IN_FLIGHT, SECTOR, checksum, fill};
use crate::say;

type Disk = VirtIOBlk<OneToOne, MmioTransport<'static>>;

/// QueueNotify, virtio 1.2 section 4.2.2.
const QUEUE_NOTIFY: usize = 0x50;
/// How often the used ring is polled before a request counts as lost.
const PATIENCE: u32 = 100_000_000;

/// Does with the disk at `window` what the plan says, a line for each step. `open` finds it there.
pub fn exercise(window: usize, open: impl Fn() -> MmioTransport<'static>) {
    let mut disk = Disk::new(open()).expect("the disk is a disk");
    let mut id = [0; 20];
    let length = settled(&mut disk).device_id(&mut id).expect("a disk has an id");
    let id = core::str::from_utf8(&id[..length]).unwrap_or("not text");
    let mode = if disk.readonly() {
        "read-only"
    } else {
        "read-write"
    };
    say!("disk {id}: {} sectors, {mode}", disk.capacity());

    plan::READ.iter().for_each(|sectors| read(&mut disk, sectors));
    for sectors in plan::PAST_THE_END {
        let mut data = buffer(&sectors);
        let start = sectors.start as usize;
        let read = settled(&mut disk).read_blocks(start, &mut data);
        let written = settled(&mut disk).write_blocks(start, &data);
        say!("past the end {sectors:?}: read {read:?}, written {written:?}");
    }
    for (write, sectors) in plan::WRITTEN.iter().enumerate() {
        let mut data = buffer(sectors);
        fill(&mut data, write as u64, sectors.start);
        let written = settled(&mut disk).write_blocks(sectors.start as usize, &data);
        say!("write {sectors:?}: {written:?}");
        read(&mut disk, sectors);
    }
    many_at_once(&mut disk, window);
    say!("flush: {:?}", settled(&mut disk).flush());

    drop(disk);
    let mut disk = Disk::new(open()).expect("a disk that was let go of can be had again");
    say!("opened again");
    read(&mut disk, &plan::WRITTEN[0]);
}

fn settled(disk: &mut Disk) -> &mut Disk {
    settle();
    disk
}

fn buffer(sectors: &Range<u64>) -> Vec<u8> {
    vec![0; (sectors.end - sectors.start) as usize * SECTOR]
}

fn read(disk: &mut Disk, sectors: &Range<u64>) {
    let mut data = buffer(sectors);
    match settled(disk).read_blocks(sectors.start as usize, &mut data) {
        Ok(()) => say!("read {sectors:?}: {:016x}", checksum(&data)),
        Err(error) => say!("read {sectors:?}: {error:?}"),
    }
}

/// A request that the device has, whose memory thus stays where it is.
struct Pending {
    token: u16,
    request: Box<BlkReq>,
    response: Box<BlkResp>,
    data: Vec<u8>,
}

/// Every second slot is written while the others are read, and then the other way round.
fn many_at_once(disk: &mut Disk, window: usize) {
    for round in 0..2 {
        settle();
        let is_write = |slot: usize| slot % 2 == round;
        let mut pending: Vec<_> = (0..IN_FLIGHT)
            .map(|slot| Some(submit(disk, slot, is_write(slot))))
            .collect();
        let (mut request, mut response) = (Box::default(), Box::default());
        // SAFETY: no request is made that could use them later.
        let one_more = unsafe { disk.read_blocks_nb(0, &mut request, &mut [0; SECTOR], &mut response) };
        say!("one more than {IN_FLIGHT}: {one_more:?}");
        let mut done = [const { None }; IN_FLIGHT];
        for _ in 0..IN_FLIGHT {
            let token = next_used(disk, window);
            let found = pending
                .iter()
                .position(|slot| slot.as_ref().is_some_and(|slot| slot.token == token));
            let slot = found.expect("the token is of a request");
            let Pending {
                request,
                mut response,
                mut data,
                ..
            } = pending[slot].take().expect("it was there");
            // SAFETY: the request's own memory.
            let result = unsafe {
                match is_write(slot) {
                    true => disk.complete_write_blocks(token, &request, &data, &mut response),
                    false => disk.complete_read_blocks(token, &request, &mut data, &mut response),
                }
            };
            done[slot] = Some(result.map(|()| checksum(&data)));
        }
        for (slot, done) in done.into_iter().enumerate() {
            let (verb, sectors) = (
                if is_write(slot) { "written" } else { "read" },
                plan::in_flight(slot),
            );
            match done.expect("each slot was used once") {
                Ok(sum) => say!("{verb} among others {sectors:?}: {sum:016x}"),
                Err(error) => say!("{verb} among others {sectors:?}: {error:?}"),
            }
        }
    }
}

fn submit(disk: &mut Disk, slot: usize, is_write: bool) -> Pending {
    let sectors = plan::in_flight(slot);
    let (mut request, mut response, mut data) = (Box::default(), Box::default(), buffer(&sectors));
    let start = sectors.start as usize;
    // SAFETY: what the request uses is kept beside its token until it is complete.
    let token = unsafe {
        if is_write {
            fill(&mut data, plan::WRITTEN.len() as u64 + slot as u64, sectors.start);
            disk.write_blocks_nb(start, &mut request, &data, &mut response)
        } else {
            disk.read_blocks_nb(start, &mut request, &mut data, &mut response)
        }
    };
    Pending {
        token: token.expect("the queue has room"),
        request,
        response,
        data,
    }
}

/// Waits for a completion. A notification that the driver left out (see [`settle`]) is made up for.
fn next_used(disk: &mut Disk, window: usize) -> u16 {
    loop {
        for _ in 0..PATIENCE {
            if let Some(token) = disk.peek_used() {
                return token;
            }
            core::hint::spin_loop();
        }
        // SAFETY: the register of a device whose driver runs.
        unsafe { ((window + QUEUE_NOTIFY) as *mut u32).write_volatile(0) }
    }
}
