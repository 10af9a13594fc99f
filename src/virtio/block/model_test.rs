//! Valid requests in any framing against a disk that is a `Vec`.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Read { sector: u64, sectors: usize },
    Write { sector: u64, sectors: usize, seed: u8 },
    Flush,
    Id,
    Restart,
}

fn operation() -> impl Strategy<Value = Operation> {
    // Up to and past the end.
    let (sector, sectors) = (0..SECTORS as u64 + 2, 0..20usize);
    prop_oneof![
        4 => (sector.clone(), sectors.clone()).prop_map(|(sector, sectors)| Operation::Read { sector, sectors }),
        4 => (sector, sectors, any::<u8>())
            .prop_map(|(sector, sectors, seed)| Operation::Write { sector, sectors, seed }),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Id),
        1 => Just(Operation::Restart),
    ]
}

fn framing() -> impl Strategy<Value = Framing> {
    let cuts = || prop::collection::vec(prop_oneof![0..40usize, 0..10_240usize], 0..30);
    (cuts(), cuts(), any::<bool>()).prop_map(|(readable, writable, indirect)| Framing {
        readable,
        writable,
        indirect,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn a_disk_behaves_like_an_array_of_sectors(
        operations in prop::collection::vec((operation(), framing()), 1..40),
        event_idx in any::<bool>(),
    ) {
        let features = FEATURES | if event_idx { EVENT_IDX } else { 0 };
        let file = image();
        let mut model = pattern();
        let mut driver = driver(Block::open(file.path(), false, Some("model")).unwrap(), features);
        for (operation, framing) in operations {
            let (kind, sector, data_out, data_in) = match operation {
                Operation::Read { sector, sectors } => (VIRTIO_BLK_T_IN, sector, vec![], sectors * 512),
                Operation::Write { sector, sectors, seed } => {
                    let data = (0..sectors * 512).map(|index| (index % 253) as u8 ^ seed).collect();
                    (VIRTIO_BLK_T_OUT, sector, data, 0)
                }
                Operation::Flush => (VIRTIO_BLK_T_FLUSH, 0, vec![], 0),
                Operation::Id => (VIRTIO_BLK_T_GET_ID, 0, vec![], 20),
                Operation::Restart => {
                    driver.reset();
                    driver.start(features, QUEUE);
                    continue;
                }
            };
            driver.want_interrupt();
            let readable = [header(kind, sector), data_out.clone()].concat();
            let pending = offer(&mut driver, &readable, data_in + 1, &framing);
            let reply = finish(&mut driver, pending);

            let start = sector as usize * 512;
            let range = start..start + data_out.len().max(data_in);
            let expected = match kind {
                VIRTIO_BLK_T_GET_ID => Reply { status: OK, data: [&b"model"[..], &[0; 15]].concat(), used: 21 },
                VIRTIO_BLK_T_FLUSH => Reply { status: OK, data: vec![], used: 1 },
                _ if range.end > model.len() => {
                    let used = u32::from(data_in == 0);
                    Reply { status: IOERR, data: vec![NOT_WRITTEN; data_in], used }
                }
                VIRTIO_BLK_T_IN => Reply { status: OK, data: model[range].to_vec(), used: data_in as u32 + 1 },
                _ => {
                    model[range].copy_from_slice(&data_out);
                    Reply { status: OK, data: vec![], used: 1 }
                }
            };
            prop_assert!(reply == expected, "{operation:?} {framing:?}: status {} used {}", reply.status, reply.used);
        }
        prop_assert!(contents(&file) == model);
    }
}
