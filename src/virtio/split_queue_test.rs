use proptest::prelude::*;
use virtio_queue::QueueState;
use vm_memory::Bytes;

use super::*;

const SIZE: u16 = 8;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap()
}

fn queue(memory: &GuestMemoryMmap, start: u16, event_idx_enabled: bool) -> SplitQueue<'_> {
    let state = QueueState {
        max_size: SIZE,
        size: SIZE,
        ready: true,
        event_idx_enabled,
        avail_ring: AVAILABLE,
        used_ring: USED,
        next_avail: start,
        next_used: start,
        ..Default::default()
    };
    for index in [AVAILABLE + 2, USED + 2] {
        memory.write_obj(start, GuestAddress(index)).unwrap();
    }
    SplitQueue::new(memory, &Queue::try_from(state).unwrap()).unwrap()
}

fn offer(memory: &GuestMemoryMmap, index: u16, head: u16) {
    let slot = AVAILABLE + 4 + 2 * u64::from(index % SIZE);
    memory.write_obj(head, GuestAddress(slot)).unwrap();
    memory
        .write_obj(index.wrapping_add(1), GuestAddress(AVAILABLE + 2))
        .unwrap();
}

fn field(memory: &GuestMemoryMmap, address: u64) -> u16 {
    memory.read_obj(GuestAddress(address)).unwrap()
}

proptest! {
    #[test]
    fn chains_come_in_order_and_go_in_any_across_the_indices_end(start in any::<u16>(), steps in prop::collection::vec(0..3u8, 1..200)) {
        let memory = memory();
        let mut queue = queue(&memory, start, false);
        let (mut offered, mut taken, mut used) = (start, start, start);
        for step in steps {
            match step {
                0 if offered.wrapping_sub(used) < SIZE => {
                    offer(&memory, offered, offered % SIZE);
                    offered = offered.wrapping_add(1);
                }
                1 => {
                    let expected = (taken != offered).then_some(taken % SIZE);
                    prop_assert_eq!(queue.take(), Ok(expected));
                    taken = taken.wrapping_add(u16::from(expected.is_some()));
                }
                _ if used != taken => {
                    queue.add_used(used % SIZE, 77).unwrap();
                    let element = USED + 4 + 8 * u64::from(used % SIZE);
                    used = used.wrapping_add(1);
                    prop_assert_eq!(field(&memory, USED + 2), used);
                    let element: [u32; 2] = memory.read_obj(GuestAddress(element)).unwrap();
                    prop_assert_eq!(element, [u32::from(used.wrapping_sub(1) % SIZE), 77]);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn an_event_index_is_passed_when_it_lies_among_what_was_used(start in any::<u16>(), count in 0..SIZE, event in any::<u16>()) {
        let memory = memory();
        let mut queue = queue(&memory, start, true);
        memory.write_obj(event, GuestAddress(AVAILABLE + 4 + 2 * u64::from(SIZE))).unwrap();
        for _ in 0..count {
            queue.add_used(0, 0).unwrap();
        }
        let passed = (0..count).any(|used| start.wrapping_add(used) == event);
        prop_assert_eq!(queue.needs_notification(), passed);
        prop_assert!(!queue.needs_notification(), "told of twice");
    }
}

#[test]
fn without_event_indices_flags_say_what_each_side_wants() {
    let memory = memory();
    let mut queue = queue(&memory, 0, false);
    assert!(queue.needs_notification());
    memory.write_obj(1u16, GuestAddress(AVAILABLE)).unwrap();
    assert!(!queue.needs_notification());
    queue.ignore_notifications();
    assert_eq!(field(&memory, USED), 1);
    assert!(!queue.want_notifications());
    assert_eq!(field(&memory, USED), 0);
}

#[test]
fn what_became_available_before_it_was_asked_for_is_told() {
    for event_idx in [false, true] {
        let memory = memory();
        let mut queue = queue(&memory, 7, event_idx);
        queue.ignore_notifications();
        offer(&memory, 7, 3);
        assert!(queue.want_notifications());
        assert_eq!(queue.take(), Ok(Some(3)));
        assert!(!queue.want_notifications());
        if event_idx {
            assert_eq!(field(&memory, USED + 4 + 8 * u64::from(SIZE)), 8);
        }
    }
}

#[test]
fn more_than_the_queue_holds_is_an_error() {
    let memory = memory();
    let mut queue = queue(&memory, 0, true);
    memory.write_obj(SIZE + 1, GuestAddress(AVAILABLE + 2)).unwrap();
    assert_eq!(queue.take(), Err(Error::Overfull));
}
