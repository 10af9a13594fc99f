//! Rings, descriptors and buffers of any bytes: serving them ends, and changes neither a read-only image nor the bytes
//! behind an image in its file.
#![no_main]

use std::sync::LazyLock;

use coracle::config::{Disk, Engine};
use coracle::virtio::block::Block;
use coracle_fuzz::{Guest, MemoryFile};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

const SECTOR: usize = 512;
const SECTORS: usize = 16;
/// Guest memory: what the driver fills, and what no descriptor can mean by accident.
const LOW: usize = 0x1_0000;
const BEYOND: [u8; SECTOR] = [0x99; SECTOR];

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);
static GUEST: LazyLock<Guest> = LazyLock::new(|| Guest::new(&[(0, LOW)]));

#[derive(Arbitrary, Debug)]
struct Input {
    read_only: bool,
    event_idx: bool,
    /// The transport accepts only powers of two.
    size: u8,
    /// In units of 16 bytes: where the three parts of the queue are.
    descriptors: u16,
    available: u16,
    used: u16,
    next: u16,
    /// Bytes of guest memory, and where they are.
    memory: Vec<(u16, Vec<u8>)>,
}

fuzz_target!(|input: Input| {
    let before = vec![0x11; SECTORS * SECTOR];
    FILE.replace(&before);
    let options = Disk {
        ro: input.read_only,
        engine: Engine::Sync,
        ..Disk::new(FILE.path())
    };
    let block = Block::open(&options, 1).expect("the image is whole");
    FILE.write_at(&BEYOND, before.len() as u64);

    GUEST.discard();
    for (address, bytes) in &input.memory {
        // Writes outside of guest memory fail, which does not matter.
        let _ = GUEST.memory.write(bytes, GuestAddress(u64::from(*address)));
    }
    let size = 1 << (input.size % 8);
    let state = QueueState {
        max_size: 128,
        size,
        ready: true,
        event_idx_enabled: input.event_idx,
        desc_table: u64::from(input.descriptors) * 16 % LOW as u64,
        avail_ring: u64::from(input.available) * 16 % LOW as u64,
        used_ring: u64::from(input.used) * 16 % LOW as u64,
        next_avail: input.next,
        next_used: input.next,
        ..Default::default()
    };
    let queue = Queue::try_from(state).expect("its addresses are aligned");
    // The transport starts only valid queues.
    if !queue.is_valid(&GUEST.memory) {
        return;
    }
    block.serve_once(queue, &GUEST.memory);

    let after = FILE.contents();
    let (disk, beyond) = after.split_at(before.len());
    assert!(*beyond == BEYOND, "the file changed behind the image");
    assert!(
        !input.read_only || disk == before,
        "a read-only image was written"
    );
});
