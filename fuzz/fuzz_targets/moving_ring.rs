//! Rings, descriptors and buffers that another thread changes while they are walked, as another processor of the guest
//! can: serving them ends, and changes neither a read-only image nor what is behind an image in its file.
#![no_main]

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use coracle::config::{Disk, Engine};
use coracle::virtio::block::Block;
use coracle_fuzz::{Guest, MemoryFile};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use virtio_queue::{Queue, QueueState};
use vm_memory::{Bytes, GuestAddress};

const SECTOR: usize = 512;
const SECTORS: usize = 16;
const MEMORY_SIZE: usize = 0x1_0000;
const QUEUE_SIZE: u16 = 16;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x4000;
const BEYOND: [u8; SECTOR] = [0x99; SECTOR];
/// How often the queue is served while memory changes.
const ROUNDS: u16 = 4;

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);
static GUEST: LazyLock<Guest> = LazyLock::new(|| Guest::new(&[(0, MEMORY_SIZE)]));

#[derive(Arbitrary, Debug)]
struct Input {
    read_only: bool,
    event_idx: bool,
    /// What the queue is made of before it is served.
    before: Vec<Change>,
    /// What changes while it is, over and over.
    meanwhile: Vec<Change>,
}

#[derive(Arbitrary, Debug)]
enum Change {
    Descriptor {
        index: u8,
        address: u16,
        length: u16,
        flags: u8,
        next: u8,
    },
    AvailableIndex(u8),
    AvailableHead {
        slot: u8,
        head: u16,
    },
    UsedEvent(u16),
    Request {
        slot: u8,
        kind: u8,
        sector: u8,
    },
    Any {
        address: u16,
        value: u64,
    },
}

impl Change {
    fn make(&self) {
        match self {
            Self::Descriptor {
                index,
                address,
                length,
                flags,
                next,
            } => {
                let at = DESCRIPTORS + 16 * u64::from(*index) % (16 * u64::from(QUEUE_SIZE));
                put(at, u64::from(*address));
                put(at + 8, u32::from(*length));
                put(at + 12, u16::from(flags % 8));
                put(at + 14, u16::from(*next) % (QUEUE_SIZE + 1));
            }
            Self::AvailableIndex(index) => put(AVAILABLE + 2, u16::from(*index)),
            Self::AvailableHead { slot, head } => put(
                AVAILABLE + 4 + 2 * u64::from(slot % QUEUE_SIZE as u8),
                *head % (QUEUE_SIZE + 1),
            ),
            Self::UsedEvent(index) => put(AVAILABLE + 4 + 2 * u64::from(QUEUE_SIZE), *index),
            Self::Request { slot, kind, sector } => {
                let at = BUFFERS + 16 * u64::from(*slot);
                put(at, u32::from(kind % 16));
                put(at + 8, u64::from(sector % 20));
            }
            Self::Any { address, value } => put((*address).into(), *value),
        }
    }
}

/// Writes outside of guest memory fail, which does not matter.
fn put<T: vm_memory::ByteValued>(address: u64, value: T) {
    let _ = GUEST.memory.write_obj(value, GuestAddress(address));
}

fuzz_target!(|input: Input| {
    let image = vec![0x11; SECTORS * SECTOR];
    FILE.replace(&image);
    let options = Disk {
        ro: input.read_only,
        engine: Engine::Sync,
        ..Disk::new(FILE.path())
    };
    let block = Block::open(&options, 1).expect("the image is whole");
    FILE.write_at(&BEYOND, image.len() as u64);
    GUEST.discard();
    input.before.iter().for_each(Change::make);

    let served = AtomicBool::new(false);
    thread::scope(|scope| {
        let changing = scope.spawn(|| {
            while !served.load(Ordering::Relaxed) && !input.meanwhile.is_empty() {
                input.meanwhile.iter().for_each(Change::make);
            }
        });
        for round in 0..ROUNDS {
            let state = QueueState {
                max_size: QUEUE_SIZE,
                size: QUEUE_SIZE,
                ready: true,
                event_idx_enabled: input.event_idx,
                desc_table: DESCRIPTORS,
                avail_ring: AVAILABLE,
                used_ring: USED,
                next_avail: round,
                next_used: round,
                ..Default::default()
            };
            let queue = Queue::try_from(state).expect("its addresses are aligned");
            block.serve_once(queue, &GUEST.memory);
        }
        served.store(true, Ordering::Relaxed);
        // A scope waits for what its threads do and not for their ends, and what a thread has until then looks like a leak.
        changing.join().expect("memory can be changed");
    });

    let after = FILE.contents();
    let (disk, beyond) = after.split_at(image.len());
    assert!(*beyond == BEYOND, "the file changed behind the image");
    assert!(!input.read_only || disk == image, "a read-only image was written");
});
