//! A driver that puts anything into its queues: the process may not suffer, and a reset brings the device back.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::packet::{HEADER_SIZE, HOST_CID, Header, Operation, Ports};
use super::test_guest::*;
use crate::virtio::test_driver::{
    Descriptor, HIGH_MEMORY, HOLE, INDIRECT, MEMORY_SIZE, NEXT, VERSION_1, WRITE,
};

/// Where packets lie that descriptors may point to.
const PACKETS: u64 = 0x9_0000;

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![
        4 => (0u64..64).prop_map(|index| PACKETS + 64 * index),
        1 => Just(HOLE - 20),
        1 => Just(HIGH_MEMORY - 20),
        1 => Just(MEMORY_SIZE - 44),
        1 => any::<u64>(),
        // The rings themselves.
        1 => 0x1000u64..0xa000,
    ];
    let length = prop_oneof![
        4 => Just(HEADER_SIZE as u32),
        2 => 0u32..200,
        1 => Just(u32::MAX),
        1 => any::<u32>(),
    ];
    let flags = prop::sample::select(vec![
        0,
        0,
        NEXT,
        WRITE,
        WRITE,
        WRITE | NEXT,
        INDIRECT,
        INDIRECT | NEXT,
        0xffff,
    ]);
    (address, length, flags, 0u16..6)
}

fn header() -> impl Strategy<Value = Header> {
    let port = || prop::sample::select(vec![7, 8, 1 << 30, (1 << 30) + 1, u32::MAX]);
    let count = || prop::sample::select(vec![0, 1, 16, 4096, 1 << 20, u32::MAX]);
    let cid = |right: u64| prop_oneof![9 => Just(right), 1 => any::<u64>()];
    (
        (cid(CID.into()), cid(HOST_CID), port(), port(), count()),
        (
            prop::sample::select(vec![1, 1, 1, 1, 2, 0]),
            0u16..10,
            0u32..4,
            count(),
            count(),
        ),
    )
        .prop_map(
            |((source_cid, destination_cid, source_port, destination_port, length), rest)| {
                let (socket_type, operation, flags, buf_alloc, fwd_cnt) = rest;
                Header {
                    source_cid,
                    destination_cid,
                    source_port,
                    destination_port,
                    length,
                    socket_type,
                    operation,
                    flags,
                    buf_alloc,
                    fwd_cnt,
                }
            },
        )
}

#[derive(Debug, Clone)]
enum Step {
    /// A table of descriptors, and the head of a chain that is made available.
    Chain(u16, Vec<Descriptor>, u16),
    /// Bytes of packets.
    Packet(u64, Header),
    HostWrites(usize),
    Call,
    Pause,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..3, prop::collection::vec(descriptor(), 1..6), 0u16..8)
            .prop_map(|(queue, table, head)| Step::Chain(queue, table, head)),
        6 => (0u64..64, header()).prop_map(|(place, header)| Step::Packet(place, header)),
        2 => (0usize..10_000).prop_map(Step::HostWrites),
        2 => Just(Step::Call),
        1 => Just(Step::Pause),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn anything_in_the_queues_harms_nothing(steps in prop::collection::vec(step(), 1..60)) {
        let backend = backend();
        let mut guest = Guest::start(&backend);
        let mut programs = Vec::<UnixStream>::new();
        for step in steps {
            match step {
                Step::Chain(queue, table, head) => {
                    let ring = match queue {
                        0 => &mut guest.receive,
                        1 => &mut guest.transmit,
                        _ => &mut guest.event,
                    };
                    for (index, descriptor) in (0..).zip(&table) {
                        guest.driver.describe(ring.descriptors(), index, *descriptor);
                    }
                    ring.offer(&guest.driver.memory, head);
                    guest.notify(queue);
                }
                Step::Packet(place, header) => guest.driver.put(&header.to_bytes(), PACKETS + 64 * place),
                Step::HostWrites(count) => {
                    // It may have been closed.
                    if let Some(program) = programs.last_mut() {
                        program.set_nonblocking(true).unwrap();
                        let _ = program.write(&vec![1; count]);
                    }
                }
                Step::Call => {
                    let (program, device) = pair();
                    backend.dial(7, device).unwrap();
                    programs.push(program);
                    let (program, device) = pair();
                    backend.answer(8, device).unwrap();
                    programs.push(program);
                }
                Step::Pause => {
                    guest.driver.transport.pause();
                    guest.driver.transport.resume();
                }
                Step::Reset => {
                    guest.driver.reset();
                    guest.initialize(VERSION_1);
                }
            }
        }
        guest.driver.reset();
        drop(programs);
        guest.initialize(VERSION_1);
        guest.give_buffers();
        let (mut program, device) = pair();
        backend.dial(9, device).unwrap();
        // There may be others that no driver has heard of before, and their ends.
        let ports = loop {
            let (header, _) = guest.next();
            if header.destination_port == 9 {
                break Ports { host: header.source_port, guest: 9 };
            }
        };
        guest.tell(ports, Operation::Response);
        guest.write(ports, b"alive");
        let mut got = [0; 5];
        program.read_exact(&mut got).unwrap();
        prop_assert_eq!(&got, b"alive");
    }
}
